// The part of the DLPack 1.x binary interface that a consumer needs (github.com/dmlc/dlpack).
//
// Field order and widths are the interface; names are ours.
#pragma once

#include <cstdint>

namespace branchwise::dlpack {

inline constexpr uint32_t kMajorVersion = 1;
inline constexpr int32_t kDeviceCpu = 1;
inline constexpr uint64_t kFlagReadOnly = 1;

enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4 };

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct Tensor {
  void* data;
  int32_t device_type;
  int32_t device_id;
  int32_t n_dims;
  uint8_t type_code;
  uint8_t type_bits;
  uint16_t type_lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; null means row-major without gaps
  uint64_t byte_offset;
};

// What a "dltensor" capsule holds.
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};

// What a "dltensor_versioned" capsule holds.
struct ManagedVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};

// What the "dlpack_exchange_api" capsule of a tensor type holds. Only `view` is called: it
// describes the tensor on the caller's stack, valid while the object lives, and may be null.
struct ExchangeApi {
  Version version;
  ExchangeApi* older;
  void* allocate;
  void* export_managed;
  void* import_managed;
  int (*view)(void* py_object, Tensor* out);
  void* current_stream;
};

}  // namespace branchwise::dlpack
