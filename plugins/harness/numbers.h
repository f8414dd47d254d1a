/* Element types on the host, and random numbers that are the same on every machine. */
#ifndef RETENTIVE_HARNESS_NUMBERS_H_
#define RETENTIVE_HARNESS_NUMBERS_H_

#include <cstddef>
#include <cstdint>

#include "retentive/params.h"

namespace retentive::harness {

constexpr float largest_float16 = 65504.0F;

/* Bytes of one element of a float type. */
size_t element_bytes(int32_t dtype);
/* "float32", "int4", ... */
const char *dtype_name(int32_t dtype);

/* Element `i` of a float tensor. */
float load(const void *data, size_t i, int32_t dtype);
/* Rounds to nearest even; what is out of float16's range becomes infinite. */
void store(void *data, size_t i, int32_t dtype, float x);

/* Half the distance between neighbours of the type at magnitude |x|: the most that one rounding can do. */
double half_ulp(double x, int32_t dtype);

/* splitmix64. */
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}

    uint64_t next();
    /* [0, 1) */
    double uniform();
    /* 0 .. n-1 */
    int32_t below(int32_t n);
    bool chance(double probability) { return uniform() < probability; }
    /* Nearly normal, variance 1: four uniform numbers' sum, without the C library's logarithm. */
    float normal();

  private:
    uint64_t state_;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_NUMBERS_H_ */
