// RetentiveAttention: retentive_export/cache/attention.py, one query at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "numbers.h"
#include "operators.h"
#include "rows.h"

namespace retentive::reference {
namespace {

// The new tokens of one batch entry.
struct Tokens {
    std::vector<bool> valid, text;
    std::vector<int> later; // valid tokens after this one
    std::vector<int> seen;  // visual ones up to this one
    int text_count = 0;

    Tokens(const int32_t *meta, int steps) {
        int visual = 0;
        for (int t = 0; t < steps; ++t) {
            valid.push_back(meta[2 * t] >= 0);
            text.push_back(valid[t] && meta[2 * t + 1] < 0);
            visual += valid[t] && !text[t];
            text_count += text[t];
            seen.push_back(visual);
        }
        later.assign(size_t(steps), 0);
        for (int t = steps - 2; t >= 0; --t) later[t] = later[t + 1] + valid[t + 1];
    }
};

// One KV head: its rows and new tokens as columns, and the statistics of the group's queries over them.
class Head {
  public:
    Head(const RetentiveAttentionParams &params, const Tokens &tokens, size_t head)
        : params_(params), geometry_(params.geometry), tokens_(tokens), head_(head), rows_(rows(geometry_)),
          columns_(rows_ + params.steps), dim_(size_t(geometry_.head_dim)), keys_(size_t(columns_) * dim_),
          values_(keys_.size()), bias_(size_t(columns_)), masked_(size_t(columns_)), visual_(size_t(columns_)),
          received_(size_t(columns_)), surprise_(size_t(columns_)), probabilities_(size_t(columns_)) {
        read_rows();
        read_tokens();
    }

    void attend() {
        for (int group = 0; group < groups(geometry_); ++group)
            for (int t = 0; t < params_.steps; ++t) attend(group, t);
        for (int c = 0; c < columns_; ++c) {
            const size_t at = head_ * size_t(columns_) + size_t(c);
            params_.received[at] = float(received_[c] * params_.gate.importance_gain);
            params_.surprise[at] = float(surprise_[c] * params_.gate.entropy_gain);
        }
        params_.visual_entropy[head_] = float(visual_entropy_ / std::max(tokens_.text_count, 1));
    }

  private:
    void read_rows() {
        const HeadRows state(geometry_, params_.state, params_.key_scale, head_);
        for (int row = 0; row < rows_; ++row) {
            state.read(row, &keys_[size_t(row) * dim_], &values_[size_t(row) * dim_]);
            masked_[row] = state.position(row) < 0;
            visual_[row] = state.is_visual(row);
            visual_rows_ += visual_[row];
            const int memory = row - local_rows(geometry_);
            if (memory < 0) continue;
            const double mass = state.mass(memory);
            if (mass > 0.0)
                bias_[row] = std::log(std::max(mass, kTiny)) + params_.gate.beta;
            else
                masked_[row] = true;
        }
    }

    void read_tokens() {
        const size_t first = head_ * size_t(params_.steps) * dim_, fresh = size_t(rows_) * dim_;
        for (size_t i = 0; i < size_t(params_.steps) * dim_; ++i) {
            keys_[fresh + i] = as_stored(sanitize(load(params_.key, geometry_.dtype, first + i)), geometry_.dtype);
            values_[fresh + i] = as_stored(sanitize(load(params_.value, geometry_.dtype, first + i)), geometry_.dtype);
        }
        for (int t = 0; t < params_.steps; ++t) visual_[rows_ + t] = tokens_.valid[t] && !tokens_.text[t];
    }

    void attend(int group, int t) {
        const int head_groups = groups(geometry_);
        const size_t at = ((head_ * size_t(head_groups) + size_t(group)) * size_t(params_.steps) + size_t(t)) * dim_;
        std::vector<double> query(dim_), output(dim_);
        for (size_t d = 0; d < dim_; ++d)
            query[d] = sanitize(load(params_.query, geometry_.dtype, at + d)) * params_.scale;
        softmax(query, t);
        for (int c = 0; c < columns_; ++c)
            if (probabilities_[c] > 0.0)
                for (size_t d = 0; d < dim_; ++d) output[d] += probabilities_[c] * values_[size_t(c) * dim_ + d];
        const double entropy = add_statistics(t, 1.0 / head_groups);
        if (geometry_.readout == RETENTIVE_READOUT_RESIDUAL) add_residual(query, entropy, output);
        for (size_t d = 0; d < dim_; ++d) store(params_.output, geometry_.dtype, at + d, output[d]);
    }

    void softmax(const std::vector<double> &query, int t) {
        double largest = -std::numeric_limits<double>::infinity(), sum = 0.0;
        for (int c = 0; c < columns_; ++c) {
            const double *key = &keys_[size_t(c) * dim_];
            double logit = 0.0;
            for (size_t d = 0; d < dim_; ++d) logit += query[d] * key[d];
            logit = std::clamp(logit, -kLogitLimit, kLogitLimit);
            const bool hidden = c < rows_ ? masked_[c] : c - rows_ > t || !tokens_.valid[c - rows_];
            // In float32, where the mask swallows any ordinary logit: a query that sees nothing sees all alike.
            probabilities_[c] = hidden ? double(float(logit) + float(kMasked)) : logit + bias_[c];
            largest = std::max(largest, probabilities_[c]);
        }
        for (double &p : probabilities_) sum += p = std::exp(p - largest);
        for (double &p : probabilities_) p /= sum;
    }

    // Add what this query saw; its visual entropy over its maximum.
    double add_statistics(int t, double share_of_group) {
        const RetentiveGate &gate = params_.gate;
        const bool text = tokens_.text[t];
        const double received =
            tokens_.valid[t] ? share_of_group * std::pow(gate.importance_decay, tokens_.later[t]) : 0;
        const double surprise = text ? share_of_group * std::pow(gate.entropy_decay, tokens_.later[t]) : 0;
        double visual = 0.0, entropy = 0.0;
        for (int c = 0; c < columns_; ++c) {
            received_[c] += received * probabilities_[c];
            if (visual_[c]) visual += probabilities_[c];
        }
        for (int c = 0; c < columns_; ++c) {
            if (!visual_[c]) continue;
            const double share = probabilities_[c] / std::max(visual, kTiny);
            const double term = -share * std::log(std::max(share, kTiny));
            surprise_[c] += surprise * term;
            entropy += term;
        }
        entropy /= std::log(std::max(double(visual_rows_ + tokens_.seen[t]), 2.0));
        if (text) visual_entropy_ += share_of_group * entropy;
        return entropy;
    }

    // output += gamma * RMSNorm(q (S_T + S_V)).
    void add_residual(const std::vector<double> &query, double entropy, std::vector<double> &output) const {
        const float *recall = params_.state.recall_state + head_ * dim_ * dim_;
        const float *visual = params_.state.visual_state + head_ * dim_ * dim_;
        std::vector<double> memory(dim_);
        for (size_t i = 0; i < dim_; ++i)
            for (size_t j = 0; j < dim_; ++j)
                memory[j] += query[i] * (double(recall[i * dim_ + j]) + visual[i * dim_ + j]);
        double square = 0.0;
        for (const double x : memory) square += x * x;
        const double factor = sigmoid(params_.gate.readout, entropy) / std::sqrt(square / double(dim_) + 1e-6);
        for (size_t j = 0; j < dim_; ++j) output[j] += factor * memory[j];
    }

    const RetentiveAttentionParams &params_;
    const RetentiveGeometry &geometry_;
    const Tokens &tokens_;
    const size_t head_; // b * Hkv + h
    const int rows_, columns_;
    const size_t dim_;
    std::vector<double> keys_, values_; // [R + T, D]
    std::vector<double> bias_;
    std::vector<bool> masked_, visual_;
    std::vector<double> received_, surprise_;
    std::vector<double> probabilities_; // of the query at hand
    int visual_rows_ = 0;
    double visual_entropy_ = 0.0;
};

} // namespace

void attention(const RetentiveAttentionParams &params) {
    const RetentiveGeometry &g = params.geometry;
    for (size_t b = 0; b < size_t(g.batch); ++b) {
        const Tokens tokens(params.token_meta + b * size_t(params.steps) * 2, params.steps);
        for (size_t h = 0; h < size_t(g.kv_heads); ++h) Head(params, tokens, b * size_t(g.kv_heads) + h).attend();
    }
}

} // namespace retentive::reference
