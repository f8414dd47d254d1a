/* Contents of a case: the state at the start and the new tokens of each step. */
#ifndef RETENTIVE_HARNESS_GENERATE_H_
#define RETENTIVE_HARNESS_GENERATE_H_

#include <vector>

#include "cases.h"
#include "numbers.h"
#include "tensors.h"

namespace retentive::harness {

/* Makes a case's tensors one after the other; the same case gives the same bytes on every machine. */
class Generator {
  public:
    explicit Generator(const Case &c);

    HostTensors state();
    /* The next step's tokens; positions go on from the last step. */
    HostTensors inputs(int32_t steps);

  private:
    void fill_rows(HostTensors &state);
    void fill_codes(HostTensors &state);
    void fill_meta(HostTensors &state);
    void fill_statistics(HostTensors &state);
    void fill_tokens(HostTensors &inputs, int32_t steps);
    void fill_token_meta(HostTensors &inputs, int32_t steps);
    void spoil(HostTensors &inputs, int32_t steps);
    bool occupied(int32_t row);
    bool padded(int32_t element, int32_t token, int32_t steps) const;
    int32_t cell();
    float key_element(int32_t channel);
    float key_scale(int32_t head, int32_t channel) const;

    const Case &case_;
    const RetentiveGeometry &g_;
    Random random_;
    std::vector<int32_t> next_position_; /* [B] */
    int32_t calls_ = 0;
};

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_GENERATE_H_ */
