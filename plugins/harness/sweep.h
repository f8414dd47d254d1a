/* Speed by size. */
#ifndef RETENTIVE_HARNESS_SWEEP_H_
#define RETENTIVE_HARNESS_SWEEP_H_

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "json.h"
#include "rotation.h"
#include "sweep_sizes.h"

namespace retentive::harness {

struct Quantiles {
    double median, p10, p90;
};

/* A device-to-device copy: what the memory can do. */
struct CopySpeed {
    size_t bytes; /* read, and as many written */
    Quantiles gigabytes_per_second;
};
CopySpeed measure_copy(bool quick);

struct SizeSpeed {
    SweepSize size;
    RotationPlan plan;
    size_t replays;
    std::optional<double> kernels; /* of one step */
    Quantiles microseconds;        /* of one step */

    double gigabytes_per_second() const {
        return static_cast<double>(traffic_of(size).total()) / microseconds.median / 1e3;
    }
};
SizeSpeed measure_size(const SweepSize &size, bool quick);

/* Checks each size against the reference, then times it; prints a line for each. `speeds` gets those that passed.
 * True when all did. */
bool run_sweep(const std::vector<SweepSize> &sizes, bool quick, const CopySpeed &copy, std::vector<SizeSpeed> &speeds);

/* As members of an object: copy, sizes. */
void write_sweep(Json &json, const CopySpeed &copy, const std::vector<SizeSpeed> &speeds);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_SWEEP_H_ */
