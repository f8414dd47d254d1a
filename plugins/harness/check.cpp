#include "check.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <functional>
#include <utility>

#include "case_check.h"
#include "cases.h"
#include "refusals.h"

namespace retentive::harness {
namespace {

struct Check {
    std::string name;
    std::function<Findings()> run;
};

std::vector<Check> select_checks(bool quick, const std::string &filter, PluginLibrary *plugins) {
    std::vector<Check> checks;
    if (std::string(refusals_name).find(filter) != std::string::npos) checks.push_back({refusals_name, check_refusals});
    for (const Case &c : select_cases(quick, filter))
        checks.push_back({c.name, [c, plugins] { return check_case(c, plugins); }});
    return checks;
}

void show_progress(size_t done, size_t all, const std::string &name) {
    if (isatty(STDERR_FILENO) == 0) return;
    std::fprintf(stderr, "\r\033[K%zu of %zu %.100s", done, all, name.c_str());
    if (done == all) std::fprintf(stderr, "\r\033[K");
}

void print_failure(const CheckedCase &checked) {
    const Findings &findings = checked.findings;
    if (findings.passed()) return;
    std::printf("FAILED %s: %s", checked.name.c_str(), findings.failures().front().c_str());
    if (findings.failure_count() > 1)
        std::printf(" (and %lld more)", static_cast<long long>(findings.failure_count() - 1));
    std::printf("\n");
}

void print_summary(const CheckResults &results) {
    const auto failed = std::count_if(results.cases.begin(), results.cases.end(),
                                      [](const CheckedCase &one) { return !one.findings.passed(); });
    std::printf("%zu cases, %zu failed", results.cases.size(), static_cast<size_t>(failed));
    if (results.cases.size() < results.asked)
        std::printf(", %zu not run: the device failed", results.asked - results.cases.size());
    std::printf("\n");
}

void write_worst(Json &json, const std::string &metric, const Findings::Worst &worst) {
    json.key(metric).begin_object().member("value", worst.value).member("limit", worst.limit).end_object();
}

void write_case(Json &json, const CheckedCase &checked) {
    const Findings &findings = checked.findings;
    json.begin_object().member("name", checked.name).member("passed", findings.passed());
    json.key("failures").begin_array();
    for (const std::string &text : findings.failures()) json.value(text);
    json.end_array().key("worst").begin_object();
    for (const auto &[metric, worst] : findings.worst()) write_worst(json, metric, worst);
    json.end_object().key("counts").begin_object();
    for (const auto &[what, count] : findings.counts()) json.member(what, count);
    json.end_object().end_object();
}

/* The worst of each metric, relative to its limit, over all cases. */
Findings worst_of_all(const CheckResults &results) {
    Findings all;
    for (const CheckedCase &checked : results.cases)
        for (const auto &[metric, worst] : checked.findings.worst()) all.measure(metric, worst.value, worst.limit);
    return all;
}

} // namespace

bool CheckResults::passed() const {
    const auto good = [](const CheckedCase &one) { return one.findings.passed(); };
    return !cases.empty() && cases.size() == asked && std::all_of(cases.begin(), cases.end(), good);
}

std::vector<std::string> check_names(bool quick, const std::string &filter) {
    std::vector<std::string> names;
    for (const Check &check : select_checks(quick, filter, nullptr)) names.push_back(check.name);
    return names;
}

CheckResults run_checks(bool quick, const std::string &filter, PluginLibrary *plugins) {
    const std::vector<Check> checks = select_checks(quick, filter, plugins);
    CheckResults results;
    results.asked = checks.size();
    bool lost = false;
    for (size_t i = 0; i < checks.size() && !lost; ++i) {
        show_progress(i, checks.size(), checks[i].name);
        Findings findings;
        try {
            findings = checks[i].run();
        } catch (const std::exception &error) {
            findings.fail(error.what());
            lost = true;
        }
        results.cases.push_back({checks[i].name, std::move(findings)});
        print_failure(results.cases.back());
        std::fflush(stdout);
    }
    show_progress(checks.size(), checks.size(), "");
    print_summary(results);
    return results;
}

void write_checks(Json &json, const CheckResults &results) {
    json.member("passed", results.passed()).member("asked", results.asked).key("worst").begin_object();
    const Findings all = worst_of_all(results);
    for (const auto &[metric, worst] : all.worst()) write_worst(json, metric, worst);
    json.end_object().key("cases").begin_array();
    for (const CheckedCase &checked : results.cases) write_case(json, checked);
    json.end_array();
}

} // namespace retentive::harness
