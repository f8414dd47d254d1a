/* What the checks of one case found. */
#ifndef RETENTIVE_HARNESS_FINDINGS_H_
#define RETENTIVE_HARNESS_FINDINGS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace retentive::harness {

class Findings {
  public:
    struct Worst {
        double value = 0.0;
        double limit = 0.0;
    };

    /* Keeps the worst value of a metric, relative to its limit; one above its limit, or NaN, is a failure. */
    void measure(const std::string &metric, double value, double limit, const std::string &where = "");
    void fail(const std::string &text);
    void count(const std::string &what, int64_t n);
    /* Put before the text of later failures: "T = 16, step 3: ". */
    void set_context(const std::string &context) { context_ = context; }

    bool passed() const { return failures_ == 0; }
    int64_t failure_count() const { return failures_; }
    const std::map<std::string, Worst> &worst() const { return worst_; }
    const std::map<std::string, int64_t> &counts() const { return counts_; }
    /* The first ones. */
    const std::vector<std::string> &failures() const { return texts_; }

  private:
    std::map<std::string, Worst> worst_;
    std::map<std::string, int64_t> counts_;
    std::vector<std::string> texts_;
    std::string context_;
    int64_t failures_ = 0;
};

/* Shortest decimal form with three digits. */
std::string three_digits(double value);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_FINDINGS_H_ */
