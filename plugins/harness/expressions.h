/* Dimension expressions for getOutputShapes: constants, unknowns with a value, and what a plugin makes of them. */
#ifndef RETENTIVE_HARNESS_EXPRESSIONS_H_
#define RETENTIVE_HARNESS_EXPRESSIONS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include <NvInferRuntime.h>

namespace retentive::harness {

/* Owns every expression that it or its builder makes. */
class Expressions {
  public:
    Expressions();
    ~Expressions();

    const nvinfer1::IDimensionExpr *constant(int64_t value);
    /* Not constant for the plugin; for us it has a value. */
    const nvinfer1::IDimensionExpr *unknown(int64_t value);
    int64_t value(const nvinfer1::IDimensionExpr &expression) const;
    nvinfer1::IExprBuilder &builder();

  private:
    class Expression;
    class Builder;

    const Expression *make(int64_t value, bool known);

    std::vector<std::unique_ptr<Expression>> expressions_;
    std::unique_ptr<Builder> builder_;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_EXPRESSIONS_H_ */
