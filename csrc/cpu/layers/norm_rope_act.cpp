// The row-wise kernels of a decoder layer: RMS norm, rotary embedding into the KV pool, gated act.
#include "cpu/isa/isa_entry.h"
#include "cpu/layers/activation.h"

namespace branchwise::BRANCHWISE_ISA {
namespace {

template <typename T>
BW_INLINE float inverse_rms(const T* x, int64_t dim, float eps) {
  Vec sum[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= dim; i += 2 * kLanes) {
    const Vec a = load(x + i), b = load(x + i + kLanes);
    sum[0] = fma(a, a, sum[0]);
    sum[1] = fma(b, b, sum[1]);
  }
  for_lanes(dim - i, [&](int64_t j, int lanes) {
    const Vec a = load_up_to(x + i + j, lanes);
    sum[0] = fma(a, a, sum[0]);
  });
  return 1.0f / __builtin_sqrtf(reduce_add(sum[0] + sum[1]) / static_cast<float>(dim) + eps);
}

template <typename T, typename Out>
BW_INLINE void scale_row(const T* x, const T* weight, float scale, float offset, int64_t dim,
                         Out* out) {
  for_lanes(dim, [&](int64_t i, int lanes) {
    const Vec w = load_up_to(weight + i, lanes) + offset;
    store_up_to(out + i, load_up_to(x + i, lanes) * scale * w, lanes);
  });
}

template <typename T>
void rms_norm_typed(const NormArgs& args) {
  const float offset = args.add_one ? 1.0f : 0.0f;
  const int64_t dim = args.dim;
  const T* weight = static_cast<const T*>(args.weight);
#pragma omp for schedule(static)
  for (int64_t row = 0; row < args.rows; ++row) {
    const T* x = static_cast<const T*>(args.x) + row * dim;
    if (args.residual) {
      T* residual = static_cast<T*>(args.residual) + row * dim;
      for_lanes(dim, [&](int64_t i, int lanes) {
        const Vec sum = load_up_to(residual + i, lanes) + load_up_to(x + i, lanes);
        store_up_to(residual + i, sum, lanes);
      });
      x = residual;  // as stored: what the next layer reads
    }
    const float scale = inverse_rms(x, dim, args.eps);
    scale_row(x, weight, scale, offset, dim, static_cast<T*>(args.out) + row * dim);
  }
}

// One head: optional norm, rotation by the row's angles, result in fp32.
template <typename T>
BW_INLINE void rotate_head(const T* x, const T* norm, const RopeArgs& args, const float* cos,
                           const float* sin, float* out) {
  const int half = args.head_dim / 2;
  float plain[kMaxHeadDim];
  const float scale = norm ? inverse_rms(x, args.head_dim, args.eps) : 1.0f;
  if (norm)
    scale_row(x, norm, scale, args.norm_add_one ? 1.0f : 0.0f, args.head_dim, plain);
  else
    for_lanes(args.head_dim, [&](int64_t i, int lanes) {
      store_up_to(plain + i, load_up_to(x + i, lanes), lanes);
    });
  for_lanes(half, [&](int64_t i, int lanes) {
    const Vec low = load_up_to(plain + i, lanes), high = load_up_to(plain + half + i, lanes);
    const Vec c = load_up_to(cos + i, lanes), s = load_up_to(sin + i, lanes);
    store_up_to(out + i, fma(low, c, -(high * s)), lanes);
    store_up_to(out + half + i, fma(high, c, low * s), lanes);
  });
}

// Where keys and values lie in a block: words of kStep steps, see kv_width.
template <typename T>
constexpr int kStep = 4 / sizeof(T);

// Key of one slot: [head_dim / kStep][slot][kStep], zeros up to whole panels. keys: of the block
template <typename T>
BW_INLINE void store_key(const float* x, int64_t dim, int64_t slot, T* keys) {
  keys += slot * kStep<T>;
  for (int64_t i = 0; i < dim; i += kStep<T>)
    for (int64_t step = 0; step < kStep<T>; ++step)
      from_float(keys[i * kBlockSlots + step], x[i + step]);
  const int64_t padded = kv_width(dim) / kBlockSlots;
  for (int64_t i = dim; i < padded; i += kStep<T>)
    for (int64_t step = 0; step < kStep<T>; ++step) keys[i * kBlockSlots + step] = T{};
}

// Value of one slot: [panel][slot / kStep][32][kStep].
template <typename T>
BW_INLINE void store_value(const T* x, int64_t dim, int64_t slot, T* values) {
  values += slot / kStep<T> * kStep<T> * kPanelWidth + slot % kStep<T>;
  for (int64_t begin = 0; begin < dim; begin += kPanelWidth, values += kBlockSlots * kPanelWidth) {
    const int64_t width = dim - begin < kPanelWidth ? dim - begin : kPanelWidth;
    for (int64_t i = 0; i < width; ++i) values[i * kStep<T>] = x[begin + i];
  }
}

template <typename T>
void rope_store_typed(const RopeArgs& args) {
  const int64_t dim = args.head_dim, width = (args.n_heads + 2 * args.n_kv_heads) * dim;
  const T* q_norm = static_cast<const T*>(args.q_norm);
  const T* k_norm = static_cast<const T*>(args.k_norm);
#pragma omp for schedule(static)
  for (int64_t row = 0; row < args.rows; ++row) {
    const T* qkv = static_cast<const T*>(args.qkv) + row * width;
    const int64_t angle = args.positions[row] * (dim / 2);
    const float *cos = args.cos + angle, *sin = args.sin + angle;
    float rotated[kMaxHeadDim];
    T* q_out = static_cast<T*>(args.q_out) + row * args.n_heads * dim;
    for (int head = 0; head < args.n_heads; ++head, qkv += dim, q_out += dim) {
      rotate_head(qkv, q_norm, args, cos, sin, rotated);
      for_lanes(dim, [&](int64_t i, int lanes) {
        store_up_to(q_out + i, load_up_to(rotated + i, lanes), lanes);
      });
    }
    const int64_t block = args.slots[row] / kBlockSlots, slot = args.slots[row] % kBlockSlots;
    const int64_t half_size = kv_width(dim);
    T* kv = static_cast<T*>(args.kv) + block * args.n_kv_heads * 2 * half_size;
    const T* value = qkv + args.n_kv_heads * dim;
    for (int head = 0; head < args.n_kv_heads; ++head, qkv += dim, value += dim) {
      rotate_head(qkv, k_norm, args, cos, sin, rotated);
      store_key(rotated, dim, slot, kv + 2 * head * half_size);
      store_value(value, dim, slot, kv + (2 * head + 1) * half_size);
    }
  }
}

template <typename T>
void act_mul_typed(const ActArgs& args) {
  const int64_t dim = args.dim;
#pragma omp for schedule(static)
  for (int64_t row = 0; row < args.rows; ++row) {
    const T* gate = static_cast<const T*>(args.gate_up) + 2 * row * dim;
    T* out = static_cast<T*>(args.out) + row * dim;
    for_lanes(dim, [&](int64_t i, int lanes) {
      const Vec g = load_up_to(gate + i, lanes), up = load_up_to(gate + dim + i, lanes);
      store_up_to(out + i, activate<T>(args.act, g) * up, lanes);
    });
  }
}

}  // namespace

void rms_norm(const NormArgs& args) {
  args.dtype == Real::f32 ? rms_norm_typed<float>(args) : rms_norm_typed<Bf16>(args);
}
void rope_store(const RopeArgs& args) {
  args.dtype == Real::f32 ? rope_store_typed<float>(args) : rope_store_typed<Bf16>(args);
}
void act_mul(const ActArgs& args) {
  args.dtype == Real::f32 ? act_mul_typed<float>(args) : act_mul_typed<Bf16>(args);
}

}  // namespace branchwise::BRANCHWISE_ISA
