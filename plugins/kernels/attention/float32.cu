#include "attention/tiles.cuh"

template int32_t retentive::launch_partial_of<float>(const RetentiveAttentionParams &, bool, void *);
template int32_t retentive::launch_statistics_of<float>(const RetentiveAttentionParams &, void *);
