#include "program.h"

#include <cstdio>
#include <exception>
#include <memory>

#include "check.h"
#include "device.h"
#include "options.h"
#include "plugin_driver.h"
#include "sweep.h"

namespace retentive::harness {
namespace {

enum Exit { passed = 0, failed = 1, misused = 2, not_run = 3 };

void write_device(Json &json) {
    const DeviceInfo info = device_info();
    json.key("device").begin_object().member("name", info.name).member("compute_capability", info.compute_capability);
    json.member("driver", info.driver).member("cuda_driver", info.driver_cuda_version);
    json.member("cuda_runtime", info.runtime_version).member("multiprocessors", info.multiprocessors);
    json.member("memory_bytes", info.memory_bytes).member("l2_bytes", info.l2_bytes).end_object();
}

/* What every result file begins with. */
Json begin_results(const Options &options) {
    Json json;
    json.begin_object().member("schema", 1).member("command", options.command).member("quick", options.quick);
    json.member("filter", options.filter).member("commit", options.commit);
    write_device(json);
    return json;
}

void finish_results(Json &json, const std::string &path) {
    json.end_object();
    if (!path.empty()) write_file(path, json.text() + "\n");
}

int info() {
    Json json;
    json.begin_object();
    write_device(json);
    json.end_object();
    std::printf("%s\n", json.text().c_str());
    return passed;
}

int list_names(const Options &options) {
    if (options.command == "check")
        for (const std::string &name : check_names(options.quick, options.filter)) std::printf("%s\n", name.c_str());
    else
        for (const SweepSize &size : select_sizes(options.quick, options.filter))
            std::printf("%s\n", size.layer.name.c_str());
    return passed;
}

int check(const Options &options, PluginLibrary *plugins) {
    if (check_names(options.quick, options.filter).empty())
        throw UsageError("no case's name holds '" + options.filter + "'; check --list prints them");
    const CheckResults results = run_checks(options.quick, options.filter, plugins);
    Json json = begin_results(options);
    write_checks(json, results);
    finish_results(json, options.json);
    return results.passed() ? passed : failed;
}

int sweep(const Options &options, PluginLibrary *plugins) {
    const std::vector<SweepSize> sizes = select_sizes(options.quick, options.filter);
    if (sizes.empty()) throw UsageError("no size's name holds '" + options.filter + "'; sweep --list prints them");
    if (const CheckResults results = run_checks(true, "", plugins); !results.passed()) {
        std::printf("no speed is measured: the check failed\n");
        return failed;
    }
    const CopySpeed copy = measure_copy(options.quick);
    std::vector<SizeSpeed> speeds;
    const bool all = run_sweep(sizes, options.quick, copy, speeds);
    Json json = begin_results(options);
    json.member("passed", all);
    write_sweep(json, copy, speeds);
    finish_results(json, options.json);
    return all ? passed : failed;
}

int run(const Options &options) {
    if (options.command == "help") {
        std::printf("%s", usage);
        return passed;
    }
    if (options.list) return list_names(options);
    if (const auto missing = missing_device()) {
        std::fprintf(stderr, "retentive_harness: %s\n", missing->c_str());
        return not_run;
    }
    if (options.command == "info") return info();
    if (!options.json.empty()) check_creatable(options.json);
    std::unique_ptr<PluginLibrary> plugins;
    if (!options.plugins.empty()) plugins = std::make_unique<PluginLibrary>(options.plugins);
    return options.command == "check" ? check(options, plugins.get()) : sweep(options, plugins.get());
}

} // namespace

int run_program(int count, const char *const *arguments) {
    try {
        return run(parse_options(count, arguments));
    } catch (const UsageError &error) {
        std::fprintf(stderr, "retentive_harness: %s\n", error.what());
        return misused;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "retentive_harness: %s\n", error.what());
        return not_run;
    }
}

} // namespace retentive::harness
