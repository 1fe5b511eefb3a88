// Binds the CPU kernels: checks shapes, types and indices here, then runs without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <memory>

#include "bind/bind.h"
#include "bind/dlpack.h"
#include "core/attention_plan.h"
#include "core/large_memory.h"
#include "cpu/code_weight.h"
#include "cpu/head_sampler.h"
#include "cpu/isa.h"
#include "cpu/packed_weight.h"
#include "cpu/quantise.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {
namespace {

constexpr std::initializer_list<DType> kReal = {DType::f32, DType::bf16};

// A vector that may be None: then its data is null.
Borrowed borrow_optional(py::handle object, const char* name, Shapes& shapes, DType dtype,
                         int64_t size) {
  if (object.is_none()) return {};
  Borrowed vector = borrow(object, name);
  shapes.check(name, vector.view(), {dtype}, {size});
  return vector;
}

void rms_norm(py::object x, py::object weight, py::object out, float eps, bool add_one) {
  const Borrowed x_ = borrow(x, "x"), weight_ = borrow(weight, "weight");
  const Borrowed out_ = borrow(out, "out", Access::write);
  Shapes shapes;
  shapes.check("x", x_.view(), kReal, {"rows", "dim"});
  shapes.check("weight", weight_.view(), {x_->dtype}, {"dim"});
  shapes.check("out", out_.view(), {x_->dtype}, {"rows", "dim"});
  py::gil_scoped_release release;
  kernels().rms_norm({x_->data, nullptr, weight_->data, out_->data, shapes["rows"], shapes["dim"],
                      eps, add_one, real_of(x_->dtype)});
}

void add_rms_norm(py::object x, py::object residual, py::object weight, py::object out, float eps,
                  bool add_one) {
  const Borrowed x_ = borrow(x, "x"), weight_ = borrow(weight, "weight");
  const Borrowed residual_ = borrow(residual, "residual", Access::write);
  const Borrowed out_ = borrow(out, "out", Access::write);
  Shapes shapes;
  shapes.check("x", x_.view(), kReal, {"rows", "dim"});
  shapes.check("residual", residual_.view(), {x_->dtype}, {"rows", "dim"});
  shapes.check("weight", weight_.view(), {x_->dtype}, {"dim"});
  shapes.check("out", out_.view(), {x_->dtype}, {"rows", "dim"});
  py::gil_scoped_release release;
  kernels().rms_norm({x_->data, residual_->data, weight_->data, out_->data, shapes["rows"],
                      shapes["dim"], eps, add_one, real_of(x_->dtype)});
}

Act act_of(const std::string& kind) {
  CHECK_ARG(kind == "silu" || kind == "gelu_tanh", "kind is '", kind,
            "', expected 'silu' or 'gelu_tanh'");
  return kind == "silu" ? Act::silu : Act::gelu_tanh;
}

void act_mul(py::object gate_up, py::object out, const std::string& kind) {
  const Borrowed in_ = borrow(gate_up, "gate_up"), out_ = borrow(out, "out", Access::write);
  const Act act = act_of(kind);
  Shapes shapes;
  shapes.check("out", out_.view(), kReal, {"rows", "dim"});
  shapes.check("gate_up", in_.view(), {out_->dtype}, {"rows", 2 * shapes["dim"]});
  py::gil_scoped_release release;
  kernels().act_mul(
      {in_->data, out_->data, shapes["rows"], shapes["dim"], act, real_of(out_->dtype)});
}

void check_heads(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim) {
  CHECK_ARG(n_kv_heads > 0 && n_heads > 0 && n_heads % n_kv_heads == 0, n_heads, " heads and ",
            n_kv_heads, " kv heads: expected a positive multiple");
  CHECK_ARG(head_dim > 0 && head_dim % 8 == 0 && head_dim <= kMaxHeadDim, "head_dim is ", head_dim,
            ", expected a multiple of 8 up to ", kMaxHeadDim);
}

// The plan stays inside the pool.
void check_plan(const AttentionPlan& plan, int64_t n_blocks) {
  CHECK_ARG(plan.block_size == kBlockSlots, "the plan has blocks of ", plan.block_size,
            " slots, the kernels need ", kBlockSlots);
  for (const int32_t id : plan.block_ids)
    CHECK_ARG(id >= 0 && id < n_blocks, "the plan reads block ", id, " of a pool of ", n_blocks);
  for (const int32_t slot : plan.slots)
    CHECK_ARG(slot >= 0 && slot / kBlockSlots < n_blocks, "the plan writes slot ", slot,
              " of a pool of ", n_blocks, " blocks");
}

py::array_t<uint8_t> large_array(int64_t bytes) {
  CHECK_ARG(bytes > 0, "bytes is ", bytes, ", expected more than 0");
  auto* owner = new std::shared_ptr<void>(large_memory(bytes));
  const py::capsule base(owner, [](void* p) { delete static_cast<std::shared_ptr<void>*>(p); });
  return py::array_t<uint8_t>(bytes, static_cast<const uint8_t*>(owner->get()), base);
}

void rope_store(py::object qkv, const AttentionPlan& plan, py::object cos, py::object sin,
                py::object q_out, py::object kv_layer, int32_t n_heads, int32_t n_kv_heads,
                int32_t head_dim, py::object q_norm, py::object k_norm, float eps,
                bool norm_add_one) {
  check_heads(n_heads, n_kv_heads, head_dim);
  const Borrowed qkv_ = borrow(qkv, "qkv"), cos_ = borrow(cos, "cos"), sin_ = borrow(sin, "sin");
  const Borrowed q_ = borrow(q_out, "q_out", Access::write);
  const Borrowed kv_ = borrow(kv_layer, "kv_layer", Access::write);
  const int64_t dim = head_dim, rows = plan.n_rows;
  Shapes shapes;
  shapes.check("qkv", qkv_.view(), kReal, {rows, (n_heads + 2 * n_kv_heads) * dim});
  shapes.check("q_out", q_.view(), {qkv_->dtype}, {rows, n_heads * dim});
  shapes.check("kv_layer", kv_.view(), {qkv_->dtype},
               {"blocks", int64_t{n_kv_heads}, int64_t{2}, kv_width(dim)});
  shapes.check("cos", cos_.view(), {DType::f32}, {"positions", dim / 2});
  shapes.check("sin", sin_.view(), {DType::f32}, {"positions", dim / 2});
  const Borrowed q_norm_ = borrow_optional(q_norm, "q_norm", shapes, qkv_->dtype, dim);
  const Borrowed k_norm_ = borrow_optional(k_norm, "k_norm", shapes, qkv_->dtype, dim);
  check_plan(plan, shapes["blocks"]);
  for (const int32_t position : plan.positions)
    CHECK_ARG(position < shapes["positions"], "position ", position, " is beyond the ",
              shapes["positions"], " positions of the cos and sin tables");
  py::gil_scoped_release release;
  kernels().rope_store({qkv_->data, plan.positions.data(), plan.slots.data(), cos_.as<float>(),
                        sin_.as<float>(), q_->data, kv_->data, q_norm_->data, k_norm_->data, rows,
                        n_heads, n_kv_heads, head_dim, eps, norm_add_one, real_of(qkv_->dtype)});
}

void tree_attention(py::object q, py::object kv_layer, const AttentionPlan& plan, py::object out,
                    int32_t head_dim, float scale, int32_t window, float softcap) {
  const Borrowed q_ = borrow(q, "q"), kv_ = borrow(kv_layer, "kv_layer");
  const Borrowed out_ = borrow(out, "out", Access::write);
  Shapes shapes;
  shapes.check("kv_layer", kv_.view(), kReal, {"blocks", "kv_heads", int64_t{2}, "block"});
  const int64_t dim = head_dim, rows = plan.n_rows;
  shapes.check("q", q_.view(), {kv_->dtype}, {rows, "width"});
  shapes.check("out", out_.view(), {kv_->dtype}, {rows, "width"});
  const int32_t n_heads = static_cast<int32_t>(shapes["width"] / std::max<int64_t>(dim, 1));
  check_heads(n_heads, static_cast<int32_t>(shapes["kv_heads"]), head_dim);
  CHECK_ARG(n_heads * dim == shapes["width"] && kv_width(dim) == shapes["block"], "q of width ",
            shapes["width"], " with heads of ", dim, " does not fit kv_layer ",
            shape_text(kv_.view()));
  CHECK_ARG(window >= 0 && softcap >= 0, "window is ", window, " and softcap ", softcap,
            ", expected 0 (off) or more");
  check_plan(plan, shapes["blocks"]);
  for (const WorkItem& item : plan.items)
    CHECK_ARG(item.key_count <= kMaxItemKeys, "a work item has ", item.key_count,
              " keys, the kernel takes ", kMaxItemKeys,
              ": plan with chunk_slots <= ", kMaxItemKeys);
  py::gil_scoped_release release;
  kernels().tree_attention({q_->data, kv_->data, out_->data, plan.items.data(),
                            plan.block_ids.data(), plan.positions.data(), rows, plan.n_items,
                            n_heads, static_cast<int32_t>(shapes["kv_heads"]), head_dim, scale,
                            window, softcap, real_of(q_->dtype)});
}

// Scratch memory of matrix products: grows, and serves one call at a time.
class Workspace {
 public:
  float* get(size_t size) {
    if (size > size_) memory_ = large_memory((size_ = std::max(size, kLeast)) * sizeof(float));
    return static_cast<float*>(memory_.get());
  }

 private:
  static constexpr size_t kLeast = size_t{1} << 23;  // memory that is not used is not taken
  size_t size_ = 0;
  std::shared_ptr<void> memory_;
};
// Fresh memory would cost more than packing into it.
thread_local Workspace gemm_workspace;

// Columns [column, column + n) of a product's result; n / 2 of them where it ends in `kind`.
struct Target {
  Borrowed x, out, bias;
  int64_t rows, columns;  // of out
  void* data;             // out at `column`
  const void* bias_data;
  Act act;

  Target(py::object x_, py::object out_, py::object bias_, int64_t n, int64_t k, int64_t column,
         const std::string& kind)
      : x(borrow(x_, "x")),
        out(borrow(out_, "out", Access::write)),
        bias(bias_.is_none() ? Borrowed() : borrow(bias_, "bias")),
        act(kind.empty() ? Act::none : act_of(kind)) {
    if (act != Act::none) {
      CHECK_ARG(n % (2 * kPanelWidth) == 0, "a gated weight has ", n,
                " rows, expected a multiple of ", 2 * kPanelWidth);
      CHECK_ARG(column == 0 && !bias->data, "a gated product takes no bias and no column");
      n /= 2;
    }
    Shapes shapes;
    shapes.check("x", x.view(), kReal, {"rows", k});
    shapes.check("out", out.view(), kReal, {"rows", "columns"});
    rows = shapes["rows"], columns = shapes["columns"];
    CHECK_ARG(column >= 0 && column + n <= columns, "out has shape ", shape_text(out.view()),
              ", expected room for columns ", column, " to ", column + n);
    if (bias->data) shapes.check("bias", bias.view(), {x->dtype}, {columns});
    data = static_cast<char*>(out->data) + column * dtype_bytes(out->dtype);
    bias_data =
        bias->data ? static_cast<char*>(bias->data) + column * dtype_bytes(x->dtype) : nullptr;
  }
};

void gemm(py::object x, const PackedWeight& packed, py::object out, py::object bias, int64_t column,
          const std::string& gated) {
  const Target to(x, out, bias, packed.n(), packed.k(), column, gated);
  py::gil_scoped_release release;
  float* scratch = gemm_workspace.get(gemm_scratch(to.rows, packed.k()));
  kernels().gemm({to.x->data, packed.panels(), to.bias_data, to.data, scratch, to.rows, packed.n(),
                  packed.k(), to.columns, real_of(to.x->dtype), real_of(packed.dtype()),
                  real_of(to.out->dtype), to.act});
}

void code_gemm(py::object x, const CodeWeight& weight, py::object out, py::object bias,
               int64_t column, const std::string& gated) {
  const Target to(x, out, bias, weight.n(), weight.k(), column, gated);
  py::gil_scoped_release release;
  float* scratch = gemm_workspace.get(code_gemm_scratch(weight.format(), to.rows, weight.k()));
  kernels().code_gemm({to.x->data, weight.panels(), weight.column_scale(), to.bias_data, to.data,
                       scratch, to.rows, weight.n(), weight.k(), to.columns, weight.format(),
                       real_of(to.x->dtype), real_of(to.out->dtype), to.act});
}

CodeWeight make_code_weight(py::object codes, py::object scales, py::object minima, int bits,
                            int group) {
  const Borrowed codes_ = borrow(codes, "codes"), scales_ = borrow(scales, "scales");
  if (minima.is_none()) return {codes_.view(), scales_.view(), {}, bits, group};
  const Borrowed minima_ = borrow(minima, "minima");
  return {codes_.view(), scales_.view(), minima_.view(), bits, group};
}

void quantise_weight(py::object weight, py::object codes, py::object scales, py::object minima,
                     int bits, int group) {
  const Borrowed weight_ = borrow(weight, "weight"), codes_ = borrow(codes, "codes", Access::write);
  const Borrowed scales_ = borrow(scales, "scales", Access::write);
  const Borrowed minima_ = minima.is_none() ? Borrowed() : borrow(minima, "minima", Access::write);
  py::gil_scoped_release release;
  quantise(weight_.view(), codes_.view(), scales_.view(), minima_.view(), bits, group);
}

py::array_t<float> prm_probability(py::object logits, const std::string& kind) {
  const Borrowed logits_ = borrow(logits, "logits");
  const bool pair = kind == "softmax0" || kind == "softmax1";
  CHECK_ARG(pair || kind == "sigmoid" || kind == "raw", "kind is '", kind,
            "', expected 'sigmoid', 'softmax0', 'softmax1' or 'raw'");
  Shapes shapes;
  shapes.check("logits", logits_.view(), kReal, {"rows", int64_t{pair ? 2 : 1}});
  const int64_t rows = shapes["rows"];
  const auto value = [&](int64_t i) -> double {
    if (logits_->dtype == DType::f32) return logits_.as<float>()[i];
    return std::bit_cast<float>(static_cast<uint32_t>(logits_.as<uint16_t>()[i]) << 16);
  };
  py::array_t<float> out(rows);
  for (int64_t row = 0; row < rows; ++row) {
    double x = pair ? value(2 * row) - value(2 * row + 1) : value(row);
    if (kind == "softmax1") x = -x;
    out.mutable_at(row) = static_cast<float>(kind == "raw" ? x : 1 / (1 + std::exp(-x)));
  }
  return out;
}

void apply(const std::string& name, py::object x, py::object out) {
  constexpr std::pair<const char*, Function> kFunctions[] = {{"exp2", Function::exp2},
                                                             {"exp", Function::exp},
                                                             {"log", Function::log},
                                                             {"tanh", Function::tanh}};
  const Borrowed x_ = borrow(x, "x"), out_ = borrow(out, "out", Access::write);
  Shapes shapes;
  shapes.check("x", x_.view(), {DType::f32}, {"n"});
  shapes.check("out", out_.view(), {DType::f32}, {"n"});
  for (const auto& [known, function] : kFunctions)
    if (name == known)
      return kernels().apply(function, x_.as<float>(), shapes["n"], out_.as<float>());
  CHECK_ARG(false, "the function is '", name, "', expected exp2, exp, log or tanh");
}

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

void begin(HeadSampler& sampler, const Array<uint64_t>& seeds, const Array<uint64_t>& lineages,
           const Array<int32_t>& positions, const Array<float>& temperature,
           const Array<float>& top_p, const Array<int32_t>& top_k, const Array<float>& min_p) {
  const auto check = [&](const py::array& array, const char* name) {
    CHECK_ARG(array.ndim() == 1 && array.size() == seeds.size(), name, " has ", array.ndim(),
              " axes and ", array.size(), " values, expected one value for each of ", seeds.size(),
              " rows");
  };
  check(seeds, "seeds"), check(lineages, "lineages"), check(positions, "positions");
  check(temperature, "temperature"), check(top_p, "top_p"), check(top_k, "top_k");
  check(min_p, "min_p");
  std::vector<DrawSpec> specs(seeds.size());
  for (py::ssize_t i = 0; i < seeds.size(); ++i)
    specs[i] = {seeds.at(i), lineages.at(i), positions.at(i), temperature.at(i),
                top_p.at(i), top_k.at(i),    min_p.at(i)};
  sampler.begin(specs);
}

void tile(HeadSampler& sampler, py::object logits, int64_t first_word, float softcap) {
  const Borrowed logits_ = borrow(logits, "logits");
  py::gil_scoped_release release;
  sampler.tile(logits_.view(), first_word, softcap);
}

py::tuple finish(HeadSampler& sampler) {
  py::array_t<int32_t> tokens(sampler.rows());
  py::array_t<float> logprobs(sampler.rows());
  int32_t* token_data = tokens.mutable_data();
  float* logprob_data = logprobs.mutable_data();
  {
    py::gil_scoped_release release;
    sampler.finish(token_data, logprob_data);
  }
  return py::make_tuple(tokens, logprobs);
}

void bind_layers(py::module_& module) {
  module.def("rms_norm", &rms_norm, "x"_a, "weight"_a, "out"_a, "eps"_a, "add_one"_a = false,
             "out = x / rms(x) * weight; x, out: [rows, dim] fp32|bf16; add_one: the weight is "
             "stored as w - 1.");
  module.def("add_rms_norm", &add_rms_norm, "x"_a, "residual"_a, "weight"_a, "out"_a, "eps"_a,
             "add_one"_a = false,
             "residual += x in place, then out = rms_norm(residual); all [rows, dim].");
  module.def("act_mul", &act_mul, "gate_up"_a, "out"_a, "kind"_a,
             "out = act(gate) * up; gate_up: [rows, 2 * dim], kind: 'silu' or 'gelu_tanh'.");
  module.def(
      "rope_store", &rope_store, "qkv"_a, "plan"_a, "cos"_a, "sin"_a, "q_out"_a, "kv_layer"_a,
      "n_heads"_a, "n_kv_heads"_a, "head_dim"_a, "q_norm"_a = py::none(), "k_norm"_a = py::none(),
      "eps"_a = 0.0f, "norm_add_one"_a = false,
      "Rotates q into q_out and k into the pool, copies v into the pool. qkv: [rows, "
      "(n_heads + 2 * n_kv_heads) * head_dim]; cos, sin: fp32 [positions, head_dim / 2]; "
      "kv_layer: [block, kv_head, 2, kv_width(head_dim)]; q_norm, k_norm: [head_dim] RMS norms "
      "of each head before the rotation.");
  module.def("large_memory", &large_array, "bytes"_a,
             "[bytes] uint8 in huge pages where there are any, not initialised and not yet taken.");
  module.attr("PANEL_WIDTH") = kPanelWidth;
  module.def("kv_width", &kv_width, "head_dim"_a,
             "Elements that the keys, or the values, of one block and head take in the pool.");
  module.def("tree_attention", &tree_attention, "q"_a, "kv_layer"_a, "plan"_a, "out"_a,
             "head_dim"_a, "scale"_a, "window"_a = 0, "softcap"_a = 0.0f,
             "Attention of the plan's rows over their paths; q, out: [rows, n_heads * head_dim]. "
             "window w > 0: the last w keys; softcap c > 0: scores become c * tanh(s / c).");
}

void bind_head(py::module_& module) {
  py::class_<PackedWeight>(module, "PackedWeight", "A weight [out, in] packed for gemm.")
      .def(
          py::init([](py::object weight) { return PackedWeight(borrow(weight, "weight").view()); }),
          "weight"_a)
      .def_property_readonly("shape",
                             [](const PackedWeight& w) { return py::make_tuple(w.n(), w.k()); })
      .def_property_readonly("nbytes", &PackedWeight::bytes);
  module.def(
      "gemm", &gemm, "x"_a, "packed"_a, "out"_a, "bias"_a = py::none(), "column"_a = 0,
      "gated"_a = "",
      "out[:, column:column + n] = x @ weight.T + bias; x: [rows, in], out: [rows, columns], "
      "fp32 or bf16 each; bias: [columns] of x's dtype. A row's bits do not depend on the "
      "other rows.");
  py::class_<CodeWeight>(module, "CodeWeight", "A weight of small integers packed for code_gemm.")
      .def(py::init(&make_code_weight), "codes"_a, "scales"_a, "minima"_a, "bits"_a, "group"_a,
           "codes: [out, in] uint8; scales: [out, in / group] fp32, or [out, 1] for group 0; "
           "minima: as scales, or None: then weights are scale * (code - 2^(bits - 1)).")
      .def_property_readonly("shape",
                             [](const CodeWeight& w) { return py::make_tuple(w.n(), w.k()); })
      .def_property_readonly("nbytes", &CodeWeight::bytes);
  module.def("quantise", &quantise_weight, "weight"_a, "codes"_a, "scales"_a, "minima"_a, "bits"_a,
             "group"_a, "Round weight: [out, in] fp32 into what CodeWeight takes; it is written.");
  module.def("code_gemm", &code_gemm, "x"_a, "weight"_a, "out"_a, "bias"_a = py::none(),
             "column"_a = 0, "gated"_a = "",
             "As gemm; x is quantised to int8 on the way in, one scale per row and group of k.");
  module.def("prm_probability", &prm_probability, "logits"_a, "kind"_a,
             "P(good) as fp32 [rows] of logits [rows, 1] ('sigmoid', 'raw') or [rows, 2] "
             "('softmax0', 'softmax1': which class is good).");
  py::class_<HeadSampler>(module, "HeadSampler", "Draws tokens from logits in vocabulary tiles.")
      .def(py::init<int64_t, int64_t>(), "max_rows"_a, "vocab_size"_a)
      .def("begin", &begin, "seeds"_a, "lineages"_a, "positions"_a, "temperature"_a, "top_p"_a,
           "top_k"_a, "min_p"_a,
           "Starts one draw per row; all [rows]. temperature 0 is greedy; top_p 1, top_k 0 and "
           "min_p 0 switch a filter off.")
      .def("tile", &tile, "logits"_a, "first_word"_a, "softcap"_a = 0.0f,
           "Logits [rows, words] from word first_word on. Tiles come in order; all but the last "
           "hold a multiple of 1024 words.")
      .def("finish", &finish,
           "(tokens [rows] int32, logprobs [rows] fp32 at temperature 1 without filters).");
}

}  // namespace

void bind_cpu(py::module_& module) {
  module.def("isa", &isa, "The instruction set of the kernels in use.");
  module.def("supported_isas", &supported_isas, "Those that this CPU runs, the best last.");
  module.def("_use_isa", &use_isa, "name"_a, "Changes the instruction set, for tests.");
  module.def("_apply", &apply, "name"_a, "x"_a, "out"_a, "A vector function, for tests.");
  bind_layers(module);
  bind_head(module);
}

}  // namespace branchwise
