/* The one fault of the broken test double. */
#ifndef RETENTIVE_HARNESS_DOUBLE_FAULT_H_
#define RETENTIVE_HARNESS_DOUBLE_FAULT_H_

#include <string>

namespace retentive::harness {

enum class Fault {
    none,
    output,       /* the last output vector is 1 % too large */
    victim,       /* the first victim is another row */
    meta,         /* a whole step forgets where one of its rows was */
    in_place,     /* a transition in place changes a statistic */
    unrepeatable, /* every second attention gives another output */
    unwritten,    /* the gate leaves one number unwritten */
    overrun,      /* the attention writes a byte behind its output */
    input,        /* the attention writes to its queries */
    refusal,      /* a call with no tokens is accepted */
    many_heads,   /* as output, with 8 KV heads alone */
};

/* By name; Fault::none when there is none of that name. */
Fault fault_named(const std::string &name);
void set_fault(Fault fault);

} // namespace retentive::harness

#endif /* RETENTIVE_HARNESS_DOUBLE_FAULT_H_ */
