#include "attention/tiles.cuh"

template int32_t retentive::launch_partial_of<__nv_bfloat16>(const RetentiveAttentionParams &, bool, void *);
template int32_t retentive::launch_statistics_of<__nv_bfloat16>(const RetentiveAttentionParams &, void *);
