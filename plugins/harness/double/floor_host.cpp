#include "floor.h"

/* Nothing to be timed here. */
int32_t retentive::harness::launch_floor(const RetentiveStepParams &, void *) { return RETENTIVE_OK; }
