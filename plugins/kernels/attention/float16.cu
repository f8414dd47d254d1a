#include "attention/tiles.cuh"

template int32_t retentive::launch_partial_of<__half>(const RetentiveAttentionParams &, bool, void *);
template int32_t retentive::launch_statistics_of<__half>(const RetentiveAttentionParams &, void *);
