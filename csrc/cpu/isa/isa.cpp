// The table of instruction sets, probing, and the choice.
#include "cpu/isa/isa.h"

#ifdef BRANCHWISE_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstdlib>

#include "core/check.h"

namespace branchwise {

namespace generic {
extern const Kernels kTable;
}
#ifdef BRANCHWISE_X86
namespace avx2 {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}
namespace avx512_bf16 {
extern const Kernels kTable;
}
namespace amx {
extern const Kernels kTable;
}
#endif

namespace {

struct Isa {
  const char* name;
  const Kernels* kernels;
  bool (*supported)();
};

#ifdef BRANCHWISE_X86
#ifdef BRANCHWISE_EMULATED
constexpr bool kEmulated = true;  // AVX-512 and AMX: tests/emulation
#else
constexpr bool kEmulated = false;
#endif
bool has_f16c() {  // not among the names that older compilers know
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kF16c = 1u << 29;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & kF16c) != 0;
}
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool has_avx512() {
  if (kEmulated) return has_avx2();
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512_bf16() {
  if (kEmulated) return has_avx2();
  return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}
// The kernel grants a process its tile registers on request.
bool has_amx() {
  if (kEmulated) return has_avx2();
  if (!has_avx512_bf16() || !__builtin_cpu_supports("avx512vbmi2")) return false;
  unsigned eax, ebx, ecx, edx;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned kNeeded = kBf16 | kTile | kInt8;
  if ((edx & kNeeded) != kNeeded) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

constexpr Isa kIsas[] = {
    {"generic", &generic::kTable, [] { return true; }},
#ifdef BRANCHWISE_X86
    {"avx2", &avx2::kTable, has_avx2},
    {"avx512", &avx512::kTable, has_avx512},
    {"avx512_bf16", &avx512_bf16::kTable, has_avx512_bf16},
    {"amx", &amx::kTable, has_amx},
#endif
};

std::string names(bool supported_only) {
  std::string text;
  for (const Isa& isa : kIsas)
    if (!supported_only || isa.supported())
      text += (text.empty() ? "" : ", ") + std::string(isa.name);
  return text;
}

const Isa& find(std::string_view name, const char* what) {
  for (const Isa& isa : kIsas) {
    if (isa.name != name) continue;
    CHECK_ARG(isa.supported(), what, " is '", name,
              "', which this CPU does not support: it supports ", names(true));
    return isa;
  }
  CHECK_ARG(false, what, " is '", name, "', which is unknown: known are ", names(false),
            "; this CPU supports ", names(true));
  __builtin_unreachable();
}

const Isa* choose() {
  if (const char* name = std::getenv("BRANCHWISE_CPU_ISA"); name && *name)
    return &find(name, "BRANCHWISE_CPU_ISA");
  const Isa* best = nullptr;
  for (const Isa& isa : kIsas)
    if (isa.supported()) best = &isa;
  return best;
}

std::atomic<const Isa*>& chosen() {
  static std::atomic<const Isa*> isa = choose();
  return isa;
}

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> supported;
  for (const Isa& isa : kIsas)
    if (isa.supported()) supported.emplace_back(isa.name);
  return supported;
}

const Kernels& kernels() { return *chosen().load(std::memory_order_relaxed)->kernels; }
std::string isa() { return chosen().load()->name; }
void use_isa(std::string_view name) { chosen().store(&find(name, "the instruction set")); }

}  // namespace branchwise
