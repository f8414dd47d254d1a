/* Host-side checks that the kernels, the reference and the plugins share. No CUDA. */
#ifndef RETENTIVE_VALIDATE_H_
#define RETENTIVE_VALIDATE_H_

#include "retentive/params.h"

namespace retentive {

/* Sizes that follow from a geometry. */
inline int32_t groups(const RetentiveGeometry &g) { return g.q_heads / g.kv_heads; }
inline int32_t local_rows(const RetentiveGeometry &g) { return g.exact_rows + g.coarse_rows; }
inline int32_t visual_rows(const RetentiveGeometry &g) { return g.memory_grid[0] * g.memory_grid[1]; }
inline int32_t memory_rows(const RetentiveGeometry &g) { return visual_rows(g) + g.recall_rows; }
inline int32_t rows(const RetentiveGeometry &g) { return local_rows(g) + memory_rows(g); }
inline int32_t tiers(const RetentiveGeometry &g) { return (g.exact_rows > 0) + (g.coarse_rows > 0); }
inline int32_t exact_store_rows(const RetentiveGeometry &g) {
    return g.exact_rows + (g.memory_store == RETENTIVE_STORE_EXACT ? memory_rows(g) : 0);
}
inline int32_t coarse_store_rows(const RetentiveGeometry &g) {
    return g.coarse_rows + (g.memory_store == RETENTIVE_STORE_COARSE ? memory_rows(g) : 0);
}

/* That a head's logits in the kernels' workspace may have more than the head has rows. */
constexpr int32_t kRoundedRows = 96;

/* RETENTIVE_OK, or the first thing that is wrong, which message() then names. Geometry and gate: the rules of
 * CacheGeometry and GateConfig. `for_kernels` adds the kernels' limits. Params: also T, every pointer's presence, its
 * alignment (16 bytes) and the workspace (pass 0 bytes where none is needed, as for the reference). */
int32_t check(const RetentiveGeometry &geometry, bool for_kernels);
int32_t check(const RetentiveGate &gate);
int32_t check(const RetentiveAttentionParams &params, bool for_kernels, size_t workspace);
int32_t check(const RetentiveGateParams &params, bool for_kernels, size_t workspace);
int32_t check(const RetentiveTransitionParams &params, bool for_kernels, size_t workspace);
int32_t check(const RetentiveStepParams &params, bool for_kernels, size_t workspace);
int32_t check_part(const RetentiveStepParams &params); /* what a step in two parts needs besides */

/* Record printf-style text for retentive_message() and return `status`. */
int32_t fail(int32_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *message();

} // namespace retentive

#endif /* RETENTIVE_VALIDATE_H_ */
