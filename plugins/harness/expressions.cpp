#include "expressions.h"

#include <algorithm>
#include <limits>

namespace retentive::harness {

using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;

/* The interface classes forward to an implementation pointer; here both are one object. */
class Expressions::Expression final : public IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
  public:
    Expression(int64_t value, bool known) : value_(value), known_(known) { mImpl = this; }

    int64_t value() const { return value_; }
    bool known() const { return known_; }

  private:
    bool isConstant() const override { return known_; }
    int64_t getConstantValue() const override { return known_ ? value_ : std::numeric_limits<int64_t>::min(); }
    bool isSizeTensor() const override { return false; }

    int64_t value_;
    bool known_;
};

class Expressions::Builder final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
  public:
    explicit Builder(Expressions &expressions) : expressions_(expressions) { mImpl = this; }

  private:
    const IDimensionExpr *constant(int64_t value) override { return expressions_.constant(value); }

    const IDimensionExpr *operation(DimensionOperation operation, const IDimensionExpr &first,
                                    const IDimensionExpr &second) override {
        const auto &a = static_cast<const Expression &>(first);
        const auto &b = static_cast<const Expression &>(second);
        const bool known = a.known() && b.known();
        switch (operation) {
        case DimensionOperation::kSUM: return expressions_.make(a.value() + b.value(), known);
        case DimensionOperation::kPROD: return expressions_.make(a.value() * b.value(), known);
        case DimensionOperation::kSUB: return expressions_.make(a.value() - b.value(), known);
        case DimensionOperation::kMAX: return expressions_.make(std::max(a.value(), b.value()), known);
        case DimensionOperation::kMIN: return expressions_.make(std::min(a.value(), b.value()), known);
        default: return nullptr; /* TensorRT's answer to an operation that it does not know */
        }
    }

    const IDimensionExpr *declareSizeTensor(int32_t, const IDimensionExpr &, const IDimensionExpr &) override {
        return nullptr; /* no plugin here has outputs whose size depends on values */
    }

    Expressions &expressions_;
};

Expressions::Expressions() : builder_(std::make_unique<Builder>(*this)) {}
Expressions::~Expressions() = default;

const Expressions::Expression *Expressions::make(int64_t value, bool known) {
    expressions_.push_back(std::make_unique<Expression>(value, known));
    return expressions_.back().get();
}

const IDimensionExpr *Expressions::constant(int64_t value) { return make(value, true); }
const IDimensionExpr *Expressions::unknown(int64_t value) { return make(value, false); }

int64_t Expressions::value(const IDimensionExpr &expression) const {
    return static_cast<const Expression &>(expression).value();
}

nvinfer1::IExprBuilder &Expressions::builder() { return *builder_; }

} // namespace retentive::harness
