/* Parameters of the three operators and of a whole step: plain C structs, no framework types.
 *
 * The contract is retentive_export/ops/contract.py, the maths retentive_export/cache/. The same structs go to the CUDA
 * kernels (launch.h, device pointers) and to the C++ reference (reference.h, host pointers).
 *
 * Notation: B batch, Hq query heads, Hkv KV heads, G = Hq / Hkv, D head size, T = steps, the new tokens of this step.
 * X exact rows, Y coarse rows, M memory rows; C = X + Y local rows, R = C + M. Memory rows stand behind the last row of
 * one of the two stores (memory_store). All tensors are contiguous, 16-byte aligned and row-major in the order given.
 */
#ifndef RETENTIVE_PARAMS_H_
#define RETENTIVE_PARAMS_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element types. INT4: two codes in a byte, code + 8, channel d in the low and d + D/2 in the high four bits. */
enum RetentiveDtype {
    RETENTIVE_FLOAT32 = 0,
    RETENTIVE_FLOAT16 = 1,
    RETENTIVE_BFLOAT16 = 2,
    RETENTIVE_INT8 = 3,
    RETENTIVE_INT4 = 4,
};

enum RetentiveStore { RETENTIVE_STORE_EXACT = 0, RETENTIVE_STORE_COARSE = 1 };
enum RetentiveReadout { RETENTIVE_READOUT_NONE = 0, RETENTIVE_READOUT_MASS = 1, RETENTIVE_READOUT_RESIDUAL = 2 };
enum RetentiveScore { RETENTIVE_SCORE_RETENTION = 0, RETENTIVE_SCORE_RECENCY = 1 };

/* Outcome of a call. What was wrong, in words: retentive_message(). */
enum RetentiveStatus {
    RETENTIVE_OK = 0,
    RETENTIVE_INVALID = 1,     /* a parameter that cannot be; nothing was launched or written */
    RETENTIVE_UNSUPPORTED = 2, /* possible, but not implemented for these sizes or this GPU */
    RETENTIVE_CUDA = 3,        /* the CUDA runtime refused */
};

/* Limits of the kernels; the reference has none but the first. */
#define RETENTIVE_CELL_STRIDE 65536 /* cell = y * 65536 + x */
#define RETENTIVE_MAX_STEPS 1024
#define RETENTIVE_MAX_HEAD_DIM 256

/* CacheGeometry (retentive_export/spec/geometry.py), field for field. */
typedef struct RetentiveGeometry {
    int32_t batch;
    int32_t kv_heads;
    int32_t q_heads;      /* a multiple of kv_heads */
    int32_t head_dim;     /* kernels: a multiple of 8, at most RETENTIVE_MAX_HEAD_DIM */
    int32_t dtype;        /* RetentiveDtype of query, key, value, output and the exact rows: a float type */
    int32_t exact_rows;   /* X */
    int32_t coarse_rows;  /* Y */
    int32_t coarse_dtype; /* RETENTIVE_INT8 or RETENTIVE_INT4; read only with coarse rows */
    int32_t memory_grid[2];
    int32_t frame_grid[2];
    int32_t recall_rows;
    int32_t memory_store; /* RetentiveStore */
    int32_t sinks;
    int32_t window;
    int32_t chunk;   /* T is 1 .. chunk; chunk <= window */
    int32_t readout; /* RetentiveReadout */
    int32_t track_importance;
    int32_t track_entropy;
} RetentiveGeometry;

/* sigmoid(weight * x + bias) when enabled, else exactly 1. */
typedef struct RetentiveSigmoid {
    int32_t enabled;
    float weight;
    float bias;
} RetentiveSigmoid;

/* GateConfig (retentive_export/spec/gate.py), field for field. */
typedef struct RetentiveGate {
    float lambda_;
    int32_t score; /* RetentiveScore */
    float importance_decay;
    float importance_gain;
    float entropy_decay;
    float entropy_gain;
    RetentiveSigmoid retention;
    RetentiveSigmoid absorption;
    RetentiveSigmoid readout;
    float beta;
} RetentiveGate;

/* One layer's state, CacheGeometry.state(). E = X, or X + M with memory_store exact; F = Y, or Y + M with coarse. */
typedef struct RetentiveState {
    void *key_rows;      /* [B, Hkv, E, D] dtype; NULL when E = 0 */
    void *value_rows;    /* [B, Hkv, E, D] dtype; NULL when E = 0 */
    void *key_codes;     /* [B, Hkv, F, D] int8 or [B, Hkv, F, D/2] uint8; NULL when F = 0 */
    void *value_codes;   /* as key_codes */
    float *value_scale;  /* [B, Hkv, F]; NULL when F = 0 */
    int32_t *row_meta;   /* [B, Hkv, R, 2] (position, cell): position < 0 empty, cell < 0 text */
    float *importance;   /* [B, Hkv, C]; NULL unless track_importance */
    float *entropy;      /* [B, Hkv, C]; NULL unless track_entropy */
    float *memory_mass;  /* [B, Hkv, M]; NULL when M = 0 */
    float *recall_state; /* [B, Hkv, D, D]; NULL unless readout is RESIDUAL */
    float *visual_state; /* [B, Hkv, D, D]; NULL unless readout is RESIDUAL */
} RetentiveState;

/* RetentiveAttention. Reads state, writes the four outputs. */
typedef struct RetentiveAttentionParams {
    RetentiveGeometry geometry;
    RetentiveGate gate;
    float scale; /* factor on q k^T */
    int32_t steps;
    const void *query;         /* [B, Hq, T, D] dtype */
    const void *key;           /* [B, Hkv, T, D] dtype, after RoPE */
    const void *value;         /* [B, Hkv, T, D] dtype */
    const int32_t *token_meta; /* [B, T, 2] (position, cell): position < 0 padding, cell < 0 text */
    const float *key_scale;    /* [Hkv, D]; NULL when Y = 0 */
    RetentiveState state;      /* read only; importance and entropy are not read and may be NULL */
    void *output;              /* [B, Hq, T, D] dtype */
    float *received;           /* [B, Hkv, R + T] */
    float *surprise;           /* [B, Hkv, R + T] */
    float *visual_entropy;     /* [B, Hkv] */
    void *workspace;           /* retentive_attention_workspace() bytes of device memory; NULL when that is 0 */
    size_t workspace_bytes;
} RetentiveAttentionParams;

/* EntropyGate. L = number of tiers that exist (exact, coarse): 1 or 2. */
typedef struct RetentiveGateParams {
    RetentiveGeometry geometry;
    RetentiveGate gate;
    int32_t steps;
    const float *received;       /* [B, Hkv, R + T] */
    const float *surprise;       /* [B, Hkv, R + T] */
    const float *visual_entropy; /* [B, Hkv] */
    const int32_t *token_meta;   /* [B, T, 2] */
    RetentiveState state;        /* row_meta, importance, entropy are read */
    int64_t *victims;            /* [B, Hkv, L, T], row numbers in the layer's row index space */
    float *importance_next;      /* [B, Hkv, C + T]; zeros unless track_importance */
    float *entropy_next;         /* [B, Hkv, C + T]; zeros unless track_entropy */
    float *absorption;           /* [B, Hkv, T], of the last tier's victims */
    float *retention;            /* [B, Hkv] */
    void *workspace;
    size_t workspace_bytes;
} RetentiveGateParams;

/* StateTransition. Every tensor of `after` is complete when the call is through; where a pointer of `after` equals the
 * one of `before` only what changes is written, otherwise the rest is copied first. */
typedef struct RetentiveTransitionParams {
    RetentiveGeometry geometry;
    int32_t steps;
    const int64_t *victims;       /* [B, Hkv, L, T]; out-of-range numbers are ignored, they cannot reach memory */
    const float *importance_next; /* [B, Hkv, C + T] */
    const float *entropy_next;    /* [B, Hkv, C + T] */
    const float *absorption;      /* [B, Hkv, T] */
    const float *retention;       /* [B, Hkv] */
    const void *key;              /* [B, Hkv, T, D] dtype */
    const void *value;            /* [B, Hkv, T, D] dtype */
    const int32_t *token_meta;    /* [B, T, 2] */
    const float *key_scale;       /* [Hkv, D]; NULL when Y = 0 */
    RetentiveState before;        /* importance and entropy are not read and may be NULL */
    RetentiveState after;
    void *workspace;
    size_t workspace_bytes;
} RetentiveTransitionParams;

/* All three operators on one layer, in place. `victims` may be NULL. */
typedef struct RetentiveStepParams {
    RetentiveGeometry geometry;
    RetentiveGate gate;
    float scale;
    int32_t steps;
    const void *query;         /* [B, Hq, T, D] dtype */
    const void *key;           /* [B, Hkv, T, D] dtype */
    const void *value;         /* [B, Hkv, T, D] dtype */
    const int32_t *token_meta; /* [B, T, 2] */
    const float *key_scale;    /* [Hkv, D]; NULL when Y = 0 */
    RetentiveState state;      /* read and written */
    void *output;              /* [B, Hq, T, D] dtype */
    int64_t *victims;          /* [B, Hkv, L, T] or NULL */
    void *workspace;
    size_t workspace_bytes;
} RetentiveStepParams;

#ifdef __cplusplus
}
#endif

#endif /* RETENTIVE_PARAMS_H_ */
