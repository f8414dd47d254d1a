/* What is timed. */
#ifndef RETENTIVE_HARNESS_SWEEP_SIZES_H_
#define RETENTIVE_HARNESS_SWEEP_SIZES_H_

#include <string>
#include <vector>

#include "cases.h"

namespace retentive::harness {

/* `aside`: the step in two parts, the second one beside the next layer's first; `output`: the first one alone. `floor`:
 * what the step's launches have to read and write, and nothing more (floor.h). `operators`: the three one after the
 * other, as TensorRT's plugins run them; else one of the launch functions. */
enum class Operation { step, aside, output, floor, operators, attention, gate, transition };
const char *operation_name(Operation operation);

struct SweepSize {
    Operation operation;
    Case layer; /* of one step; its name is the size's */
    int32_t steps() const { return layer.steps.front(); }
};

/* Sizes whose name holds `filter`. */
std::vector<SweepSize> select_sizes(bool quick, const std::string &filter);

/* Bytes that an operation has to move for one step, each tensor element that it reads or writes counted once; what it
 * keeps in its workspace is not counted. */
struct Traffic {
    size_t read = 0;
    size_t written = 0;
    size_t total() const { return read + written; }
};
Traffic traffic_of(const SweepSize &size);

/* Floating-point operations of the two products of the attention; 0 for what has none. */
double attention_operations(const SweepSize &size);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_SWEEP_SIZES_H_ */
