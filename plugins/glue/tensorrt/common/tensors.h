/* Inputs and outputs of the plugins: which tensors, in which order, of which type and shape, and the checks of what
 * TensorRT offers against that. */
#ifndef RETENTIVE_TENSORRT_TENSORS_H_
#define RETENTIVE_TENSORRT_TENSORS_H_

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include <NvInferRuntime.h>

#include "retentive/params.h"

namespace retentive::tensorrt {

/* Every tensor that an operator reads or writes; names as in retentive_export/ops/contract.py. */
enum class TensorId : std::size_t {
    query,
    key,
    value,
    token_meta,
    key_scale,
    key_rows,
    value_rows,
    key_codes,
    value_codes,
    value_scale,
    row_meta,
    importance,
    entropy,
    memory_mass,
    recall_state,
    visual_state,
    output,
    received,
    surprise,
    visual_entropy,
    victims,
    importance_next,
    entropy_next,
    absorption,
    retention,
};
constexpr std::size_t tensor_count = static_cast<std::size_t>(TensorId::retention) + 1;

const char *name(TensorId id);

/* One dimension: `fixed`, or with `per_step` fixed + T. */
struct Extent {
    int64_t fixed;
    bool per_step = false;

    int64_t at(int64_t steps) const { return per_step ? fixed + steps : fixed; }
};

/* T alone, and rows + T. */
constexpr Extent steps_extent{0, true};
constexpr Extent with_steps(int64_t rows) { return {rows, true}; }

/* One input or output. int4 codes are bytes: `either_byte` takes them as kINT8 or kUINT8. */
struct Tensor {
    TensorId id;
    nvinfer1::DataType type;
    std::vector<Extent> shape;
    bool either_byte = false;

    bool accepts(nvinfer1::DataType offered) const;
    std::string describe() const;
};

/* Inputs and outputs of one operator, in order. */
struct Signature {
    std::vector<Tensor> inputs;
    std::vector<Tensor> outputs;

    /* Index of an input, -1 where there is none of that name. */
    int32_t input(TensorId id) const;
};

nvinfer1::DataType float_type(const RetentiveGeometry &geometry);

/* CacheGeometry.state(). */
std::vector<Tensor> state_tensors(const RetentiveGeometry &geometry);
/* The same without the statistics: what RetentiveAttention and StateTransition read. */
std::vector<Tensor> row_state_tensors(const RetentiveGeometry &geometry);

/* All of these throw PluginError with the tensor's name, what was offered and what is accepted. */
void check_count(const char *what, int32_t offered, std::size_t expected);
void check_type(const char *what, std::size_t index, const Tensor &tensor, nvinfer1::DataType offered);
/* `steps` < 0: T is not known, any number of 1 or more. With `wildcards` a dimension may be -1, not known. */
void check_dims(const char *what, std::size_t index, const Tensor &tensor, const nvinfer1::Dims &offered, int64_t steps,
                bool wildcards = false);
/* T, from the dimensions of token_meta [B, T, 2]. With `wildcards` it may be -1, not known. */
int32_t steps_of(const Signature &signature, const nvinfer1::Dims &token_meta, const RetentiveGeometry &geometry,
                 bool wildcards = false);

/* Addresses of one call, by tensor; nullptr for a tensor that the operator does not have. */
class Bindings {
  public:
    Bindings(const Signature &signature, const void *const *inputs, void *const *outputs);

    template <typename T> const T *in(TensorId id) const {
        return static_cast<const T *>(inputs_[static_cast<std::size_t>(id)]);
    }
    template <typename T> T *out(TensorId id) const { return static_cast<T *>(outputs_[static_cast<std::size_t>(id)]); }
    RetentiveState state_in() const { return state(inputs_); }
    RetentiveState state_out() const { return state(outputs_); }

  private:
    using Addresses = std::array<void *, tensor_count>;
    static RetentiveState state(const Addresses &addresses);

    Addresses inputs_{};
    Addresses outputs_{};
};

} // namespace retentive::tensorrt

#endif /* RETENTIVE_TENSORRT_TENSORS_H_ */
