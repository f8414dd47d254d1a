#include "sweep.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "generate.h"
#include "step_check.h"

namespace retentive::harness {
namespace {

/* How long to measure. */
struct Effort {
    size_t graph_steps;
    size_t warm_up, replays;                   /* at least */
    double warm_up_microseconds, microseconds; /* at least */
};
constexpr Effort effort_of(bool quick) { return quick ? Effort{4, 1, 3, 0.0, 0.0} : Effort{64, 5, 50, 1e5, 3e5}; }

constexpr size_t footprint_in_l2 = 4; /* all states together, in units of the L2 cache */
constexpr size_t copy_bytes = size_t{1} << 30, quick_copy_bytes = size_t{1} << 24;
constexpr int copies = 20;

Quantiles quantiles_of(std::vector<double> samples) {
    std::sort(samples.begin(), samples.end());
    const auto at = [&](double share) {
        return samples[static_cast<size_t>(share * static_cast<double>(samples.size() - 1) + 0.5)];
    };
    return {at(0.5), at(0.1), at(0.9)};
}

/* The layers that are timed, each checked once for all the sizes that time it. */
class SizeChecks {
  public:
    explicit SizeChecks(const std::vector<SweepSize> &sizes) : sizes_(sizes) {}

    const Findings &of(const SweepSize &size) {
        const std::string layer = name(size);
        const auto known = findings_.find(layer);
        return known != findings_.end() ? known->second : findings_.emplace(layer, check(size)).first->second;
    }

  private:
    static std::string name(const SweepSize &size) { return describe(size.layer.geometry, size.layer.steps); }
    bool timed(const SweepSize &layer, bool whole_step) const {
        return std::any_of(sizes_.begin(), sizes_.end(), [&](const SweepSize &other) {
            const bool whole = other.operation == Operation::step || other.operation == Operation::aside ||
                               other.operation == Operation::output;
            return name(other) == name(layer) && other.operation != Operation::floor && whole == whole_step;
        });
    }
    /* One step against the reference; floors alone compute nothing. */
    Findings check(const SweepSize &size) const {
        Findings findings;
        const bool operators = timed(size, false), whole_step = timed(size, true);
        if (!operators && !whole_step) return findings;
        Stream stream;
        Generator generator(size.layer);
        const HostTensors state = generator.state();
        StepCheck step(findings, stream, size.layer, size.steps(), generator.inputs(size.steps()), state, nullptr);
        if (operators) step.check_operators();
        if (whole_step) step.check_step();
        return findings;
    }

    const std::vector<SweepSize> &sizes_;
    std::map<std::string, Findings> findings_;
};

void print_header() {
    std::printf("%-66s %10s %10s %10s %10s %8s %7s %7s\n", "size", "us/step", "p10", "p90", "MB/step", "GB/s",
                "of copy", "kernels");
}

void print_speed(const SizeSpeed &speed, const CopySpeed &copy) {
    const double rate = speed.gigabytes_per_second();
    std::printf("%-66s %10.2f %10.2f %10.2f %10.3f %8.0f %7.3f %7.3g\n", speed.size.layer.name.c_str(),
                speed.microseconds.median, speed.microseconds.p10, speed.microseconds.p90,
                static_cast<double>(traffic_of(speed.size).total()) / 1e6, rate,
                rate / copy.gigabytes_per_second.median, speed.kernels.value_or(0.0));
    std::fflush(stdout);
}

void write_quantiles(Json &json, const char *name, const Quantiles &quantiles) {
    json.key(name).begin_object().member("median", quantiles.median).member("p10", quantiles.p10);
    json.member("p90", quantiles.p90).end_object();
}

void write_layer(Json &json, const RetentiveGeometry &g) {
    json.key("layer").begin_object();
    json.member("batch", g.batch).member("kv_heads", g.kv_heads).member("q_heads", g.q_heads);
    json.member("head_dim", g.head_dim).member("dtype", dtype_name(g.dtype)).member("exact_rows", g.exact_rows);
    json.member("coarse_rows", g.coarse_rows).key("coarse_dtype");
    g.coarse_rows > 0 ? json.value(dtype_name(g.coarse_dtype)) : json.null();
    json.member("visual_memory_rows", g.memory_grid[0] * g.memory_grid[1]).member("recall_rows", g.recall_rows);
    json.member("sinks", g.sinks).member("window", g.window).member("chunk", g.chunk).end_object();
}

void write_speed(Json &json, const SizeSpeed &speed, const CopySpeed &copy) {
    const Traffic traffic = traffic_of(speed.size);
    const double rate = speed.gigabytes_per_second(), operations = attention_operations(speed.size);
    json.begin_object().member("name", speed.size.layer.name);
    json.member("operation", operation_name(speed.size.operation)).member("steps", speed.size.steps());
    write_layer(json, speed.size.layer.geometry);
    json.key("kernels");
    speed.kernels ? json.value(*speed.kernels) : json.null();
    json.member("graph_steps", speed.plan.steps).member("layers_in_rotation", speed.plan.layers);
    json.member("state_bytes", speed.plan.state_bytes).member("replays", speed.replays);
    write_quantiles(json, "microseconds", speed.microseconds);
    json.member("bytes_read", traffic.read).member("bytes_written", traffic.written);
    json.member("gigabytes_per_second", rate);
    json.member("share_of_copy", rate / copy.gigabytes_per_second.median);
    json.key("tflops");
    operations > 0.0 ? json.value(operations / speed.microseconds.median / 1e6) : json.null();
    json.end_object();
}

} // namespace

CopySpeed measure_copy(bool quick) {
    const size_t bytes = std::min(quick ? quick_copy_bytes : copy_bytes, device_info().memory_bytes / 16);
    Stream stream;
    Buffer source(bytes, stream, false), target(bytes, stream, false);
    source.fill(0x5a);
    target.time_copy(source);
    std::vector<double> rates;
    for (int i = 0; i < copies; ++i) rates.push_back(2.0 * static_cast<double>(bytes) / target.time_copy(source) / 1e3);
    return {bytes, quantiles_of(rates)};
}

SizeSpeed measure_size(const SweepSize &size, bool quick) {
    const Effort effort = effort_of(quick);
    Stream stream;
    const RotationPlan plan = plan_rotation(size, footprint_in_l2 * device_info().l2_bytes, effort.graph_steps);
    Rotation rotation(stream, size, plan);
    const auto sample = [&](size_t least, double microseconds) {
        std::vector<double> samples;
        for (double spent = 0.0; samples.size() < least || spent < microseconds;) {
            samples.push_back(rotation.time());
            spent += samples.back() * static_cast<double>(plan.steps);
        }
        return samples;
    };
    sample(effort.warm_up, effort.warm_up_microseconds);
    const std::vector<double> samples = sample(effort.replays, effort.microseconds);
    return {size, plan, samples.size(), rotation.kernels(), quantiles_of(samples)};
}

bool run_sweep(const std::vector<SweepSize> &sizes, bool quick, const CopySpeed &copy, std::vector<SizeSpeed> &speeds) {
    bool passed = true;
    SizeChecks checks(sizes);
    std::printf("copy of %zu MiB: %.0f GB/s\n", copy.bytes >> 20, copy.gigabytes_per_second.median);
    print_header();
    for (const SweepSize &size : sizes) {
        const Findings &findings = checks.of(size);
        if (!findings.passed()) {
            passed = false;
            std::printf("FAILED %s: %s\n", size.layer.name.c_str(), findings.failures().front().c_str());
            continue;
        }
        speeds.push_back(measure_size(size, quick));
        print_speed(speeds.back(), copy);
    }
    return passed;
}

void write_sweep(Json &json, const CopySpeed &copy, const std::vector<SizeSpeed> &speeds) {
    json.key("copy").begin_object().member("bytes", copy.bytes);
    write_quantiles(json, "gigabytes_per_second", copy.gigabytes_per_second);
    json.end_object().key("sizes").begin_array();
    for (const SizeSpeed &speed : speeds) write_speed(json, speed, copy);
    json.end_array();
}

} // namespace retentive::harness
