// Binds the kernels of a decoder layer: shapes, types and indices are checked here, then kernels
// run without the GIL, or are recorded.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "bind/dlpack.h"
#include "core/attention_plan.h"
#include "core/large_memory.h"
#include "cpu/code_weight.h"
#include "cpu/launch.h"
#include "cpu/packed_weight.h"
#include "cpu/program.h"
#include "cpu/quantise.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {
namespace {

constexpr std::initializer_list<DType> kReal = {DType::f32, DType::bf16};

// The plan stays inside the pool and the tables of angles.
void check_plan(const AttentionPlan& plan, int64_t n_blocks, int64_t n_positions) {
  CHECK_ARG(plan.block_size == kBlockSlots, "the plan has blocks of ", plan.block_size,
            " slots, the kernels need ", kBlockSlots);
  for (const int32_t id : plan.block_ids)
    CHECK_ARG(id >= 0 && id < n_blocks, "the plan reads block ", id, " of a pool of ", n_blocks);
  for (const int32_t slot : plan.slots)
    CHECK_ARG(slot >= 0 && slot / kBlockSlots < n_blocks, "the plan writes slot ", slot,
              " of a pool of ", n_blocks, " blocks");
  for (const int32_t position : plan.positions)
    CHECK_ARG(position < n_positions, "position ", position, " is beyond the ", n_positions,
              " positions of the cos and sin tables");
  for (const WorkItem& item : plan.items)
    CHECK_ARG(item.key_count <= kMaxItemKeys, "a work item has ", item.key_count,
              " keys, the kernel takes ", kMaxItemKeys,
              ": plan with chunk_slots <= ", kMaxItemKeys);
}

// What record() gives: the calls, whatever keeps their memory alive, and what plans must fit.
class Pass {
 public:
  // Adds a call over `rows` rows.
  template <typename Args, typename... Owners>
  void add(const Args& args, int64_t rows, Owners&&... owners) {
    program_.add(args);
    rows_ = std::min(rows_, rows);
    (tensors_.push_back(std::move(owners)), ...);
  }
  void keep(py::object weight) { weights_.push_back(std::move(weight)); }
  void bound(int64_t n_blocks, int64_t n_positions) {
    n_blocks_ = std::min(n_blocks_, n_blocks), n_positions_ = std::min(n_positions_, n_positions);
  }

  void run(const AttentionPlan& plan) {
    CHECK_ARG(plan.n_rows <= rows_, "the plan has ", plan.n_rows,
              " rows, the calls were recorded over ", rows_);
    check_plan(plan, n_blocks_, n_positions_);
    py::gil_scoped_release release;
    program_.run(plan);
  }
  int64_t size() const { return program_.size(); }

 private:
  static constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  Program program_;
  std::vector<Borrowed> tensors_;
  std::vector<py::object> weights_;
  int64_t rows_ = kAny, n_blocks_ = kAny, n_positions_ = kAny;
};

thread_local Pass* recording = nullptr;

// Calls `body`; the kernels that it calls in this thread are recorded, not run.
std::unique_ptr<Pass> record(const py::function& body) {
  CHECK_ARG(!recording, "record was called within record");
  struct Scope {
    explicit Scope(Pass* pass) { recording = pass; }
    ~Scope() { recording = nullptr; }
  };
  auto pass = std::make_unique<Pass>();
  const Scope scope(pass.get());
  body();
  return pass;
}

// Runs a call over `rows` rows, or adds it to the recording, with the tensors that it needs.
template <typename Args, typename... Owners>
void call(const Args& args, int64_t rows, Owners&&... owners) {
  if (recording) return recording->add(args, rows, std::forward<Owners>(owners)...);
  py::gil_scoped_release release;
  launch(args);
}
// Rows that a tensor of a call with a plan must have. Recorded calls meet their plans later.
Dim rows_of(const AttentionPlan& plan) { return recording ? Dim("rows") : Dim(plan.n_rows); }

// The same for one call; a recorded one meets its plans later.
void check_call(const AttentionPlan& plan, int64_t n_blocks, int64_t n_positions) {
  recording ? recording->bound(n_blocks, n_positions) : check_plan(plan, n_blocks, n_positions);
}

// A vector that may be None: then its data is null.
Borrowed borrow_optional(py::handle object, const char* name, Shapes& shapes, DType dtype,
                         int64_t size) {
  if (object.is_none()) return {};
  Borrowed vector = borrow(object, name);
  shapes.check(name, vector.view(), {dtype}, {size});
  return vector;
}

void rms_norm(py::object x, py::object weight, py::object out, float eps, bool add_one) {
  Borrowed x_ = borrow(x, "x"), weight_ = borrow(weight, "weight");
  Borrowed out_ = borrow(out, "out", Access::write);
  Shapes shapes;
  shapes.check("x", x_.view(), kReal, {"rows", "dim"});
  shapes.check("weight", weight_.view(), {x_->dtype}, {"dim"});
  shapes.check("out", out_.view(), {x_->dtype}, {"rows", "dim"});
  const NormArgs args{x_->data,      nullptr, weight_->data, out_->data,        shapes["rows"],
                      shapes["dim"], eps,     add_one,       real_of(x_->dtype)};
  call(args, args.rows, std::move(x_), std::move(weight_), std::move(out_));
}

void add_rms_norm(py::object x, py::object residual, py::object weight, py::object out, float eps,
                  bool add_one) {
  Borrowed x_ = borrow(x, "x"), weight_ = borrow(weight, "weight");
  Borrowed residual_ = borrow(residual, "residual", Access::write);
  Borrowed out_ = borrow(out, "out", Access::write);
  Shapes shapes;
  shapes.check("x", x_.view(), kReal, {"rows", "dim"});
  shapes.check("residual", residual_.view(), {x_->dtype}, {"rows", "dim"});
  shapes.check("weight", weight_.view(), {x_->dtype}, {"dim"});
  shapes.check("out", out_.view(), {x_->dtype}, {"rows", "dim"});
  const NormArgs args{x_->data,   residual_->data, weight_->data,
                      out_->data, shapes["rows"],  shapes["dim"],
                      eps,        add_one,         real_of(x_->dtype)};
  call(args, args.rows, std::move(x_), std::move(residual_), std::move(weight_), std::move(out_));
}

Act act_of(const std::string& kind) {
  CHECK_ARG(kind == "silu" || kind == "gelu_tanh", "kind is '", kind,
            "', expected 'silu' or 'gelu_tanh'");
  return kind == "silu" ? Act::silu : Act::gelu_tanh;
}

void act_mul(py::object gate_up, py::object out, const std::string& kind) {
  Borrowed in_ = borrow(gate_up, "gate_up"), out_ = borrow(out, "out", Access::write);
  const Act act = act_of(kind);
  Shapes shapes;
  shapes.check("out", out_.view(), kReal, {"rows", "dim"});
  shapes.check("gate_up", in_.view(), {out_->dtype}, {"rows", 2 * shapes["dim"]});
  const ActArgs args{in_->data,     out_->data, shapes["rows"],
                     shapes["dim"], act,        real_of(out_->dtype)};
  call(args, args.rows, std::move(in_), std::move(out_));
}

void check_heads(int32_t n_heads, int32_t n_kv_heads, int32_t head_dim) {
  CHECK_ARG(n_kv_heads > 0 && n_heads > 0 && n_heads % n_kv_heads == 0, n_heads, " heads and ",
            n_kv_heads, " kv heads: expected a positive multiple");
  CHECK_ARG(head_dim > 0 && head_dim % 8 == 0 && head_dim <= kMaxHeadDim, "head_dim is ", head_dim,
            ", expected a multiple of 8 up to ", kMaxHeadDim);
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
  Borrowed qkv_ = borrow(qkv, "qkv"), cos_ = borrow(cos, "cos"), sin_ = borrow(sin, "sin");
  Borrowed q_ = borrow(q_out, "q_out", Access::write);
  Borrowed kv_ = borrow(kv_layer, "kv_layer", Access::write);
  const int64_t dim = head_dim;
  const Dim rows = rows_of(plan);
  Shapes shapes;
  shapes.check("qkv", qkv_.view(), kReal, {rows, (n_heads + 2 * n_kv_heads) * dim});
  shapes.check("q_out", q_.view(), {qkv_->dtype}, {rows, n_heads * dim});
  shapes.check("kv_layer", kv_.view(), {qkv_->dtype},
               {"blocks", int64_t{n_kv_heads}, int64_t{2}, kv_width(dim)});
  shapes.check("cos", cos_.view(), {DType::f32}, {"positions", dim / 2});
  shapes.check("sin", sin_.view(), {DType::f32}, {"positions", dim / 2});
  Borrowed q_norm_ = borrow_optional(q_norm, "q_norm", shapes, qkv_->dtype, dim);
  Borrowed k_norm_ = borrow_optional(k_norm, "k_norm", shapes, qkv_->dtype, dim);
  check_call(plan, shapes["blocks"], shapes["positions"]);
  const RopeArgs args{qkv_->data,        plan.positions.data(),
                      plan.slots.data(), cos_.as<float>(),
                      sin_.as<float>(),  q_->data,
                      kv_->data,         q_norm_->data,
                      k_norm_->data,     qkv_->shape[0],
                      n_heads,           n_kv_heads,
                      head_dim,          eps,
                      norm_add_one,      real_of(qkv_->dtype)};
  call(args, args.rows, std::move(qkv_), std::move(cos_), std::move(sin_), std::move(q_),
       std::move(kv_), std::move(q_norm_), std::move(k_norm_));
}

void tree_attention(py::object q, py::object kv_layer, const AttentionPlan& plan, py::object out,
                    int32_t head_dim, float scale, int32_t window, float softcap) {
  Borrowed q_ = borrow(q, "q"), kv_ = borrow(kv_layer, "kv_layer");
  Borrowed out_ = borrow(out, "out", Access::write);
  Shapes shapes;
  shapes.check("kv_layer", kv_.view(), kReal, {"blocks", "kv_heads", int64_t{2}, "block"});
  const int64_t dim = head_dim;
  const Dim rows = rows_of(plan);
  shapes.check("q", q_.view(), {kv_->dtype}, {rows, "width"});
  shapes.check("out", out_.view(), {kv_->dtype}, {rows, "width"});
  const int32_t n_heads = static_cast<int32_t>(shapes["width"] / std::max<int64_t>(dim, 1));
  check_heads(n_heads, static_cast<int32_t>(shapes["kv_heads"]), head_dim);
  CHECK_ARG(n_heads * dim == shapes["width"] && kv_width(dim) == shapes["block"], "q of width ",
            shapes["width"], " with heads of ", dim, " does not fit kv_layer ",
            shape_text(kv_.view()));
  CHECK_ARG(window >= 0 && softcap >= 0, "window is ", window, " and softcap ", softcap,
            ", expected 0 (off) or more");
  check_call(plan, shapes["blocks"], std::numeric_limits<int64_t>::max());
  const AttentionArgs args{q_->data,
                           kv_->data,
                           out_->data,
                           plan.items.data(),
                           plan.block_ids.data(),
                           plan.positions.data(),
                           q_->shape[0],
                           plan.n_items,
                           n_heads,
                           static_cast<int32_t>(shapes["kv_heads"]),
                           head_dim,
                           scale,
                           window,
                           softcap,
                           real_of(q_->dtype)};
  call(args, args.n_rows, std::move(q_), std::move(kv_), std::move(out_));
}

// Gives the number of rows that are kept; recorded, all that there is room for.
int64_t keep_last_rows(py::object x, const AttentionPlan& plan) {
  Borrowed x_ = borrow(x, "x", Access::write);
  Shapes shapes;
  shapes.check("x", x_.view(), kReal, {rows_of(plan), "width"});
  const LastRowsArgs args{x_->data, plan.last_rows.data(), x_->shape[0], std::ssize(plan.last_rows),
                          shapes["width"] * dtype_bytes(x_->dtype)};
  call(args, args.rows, std::move(x_));
  return recording ? args.rows : args.n;
}

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

// Runs or records a product with `weight`, a Python object that holds the weights.
template <typename Args, typename Weight>
void multiply(const Args& args, Target& to, const Weight& weight) {
  if (recording) recording->keep(py::cast(&weight, py::return_value_policy::reference));
  call(args, args.rows, std::move(to.x), std::move(to.out), std::move(to.bias));
}

void gemm(py::object x, const PackedWeight& packed, py::object out, py::object bias, int64_t column,
          const std::string& gated) {
  Target to(x, out, bias, packed.n(), packed.k(), column, gated);
  const GemmArgs args{to.x->data,
                      packed.panels(),
                      to.bias_data,
                      to.data,
                      nullptr,
                      to.rows,
                      packed.n(),
                      packed.k(),
                      to.columns,
                      real_of(to.x->dtype),
                      real_of(packed.dtype()),
                      real_of(to.out->dtype),
                      to.act,
                      packed.compact()};
  multiply(args, to, packed);
}

void code_gemm(py::object x, const CodeWeight& weight, py::object out, py::object bias,
               int64_t column, const std::string& gated) {
  Target to(x, out, bias, weight.n(), weight.k(), column, gated);
  const CodeGemmArgs args{to.x->data,
                          weight.panels(),
                          weight.column_scale(),
                          to.bias_data,
                          to.data,
                          nullptr,
                          to.rows,
                          weight.n(),
                          weight.k(),
                          to.columns,
                          weight.format(),
                          real_of(to.x->dtype),
                          real_of(to.out->dtype),
                          to.act};
  multiply(args, to, weight);
}

CodeWeight make_code_weight(py::object codes, py::object scales, py::object minima, int bits,
                            int group) {
  const Borrowed codes_ = borrow(codes, "codes"), scales_ = borrow(scales, "scales");
  if (minima.is_none()) return {codes_.view(), scales_.view(), {}, bits, group};
  const Borrowed minima_ = borrow(minima, "minima");
  return {codes_.view(), scales_.view(), minima_.view(), bits, group};
}

// Memory of an array, which stays alive. The last holder must have the GIL.
std::shared_ptr<void> keep(const py::array& array) {
  return {const_cast<void*>(array.data()), [array](void*) {}};
}

PackedWeight stored_packed_weight(const py::array_t<uint8_t, py::array::c_style>& panels,
                                  const std::pair<int64_t, int64_t>& shape,
                                  const std::string& dtype, bool compact) {
  CHECK_ARG(dtype == "float32" || dtype == "bfloat16", "dtype is ", dtype,
            ", expected float32 or bfloat16");
  const DType type = dtype == "float32" ? DType::f32 : DType::bf16;
  return {keep(panels), panels.size(), shape.first, shape.second, type, compact};
}

CodeWeight stored_code_weight(
    const py::array_t<uint8_t, py::array::c_style>& panels,
    const std::optional<py::array_t<float, py::array::c_style>>& column_scale,
    const std::pair<int64_t, int64_t>& shape, int bits, int group, bool has_minima) {
  std::vector<float> scale;
  if (column_scale) scale.assign(column_scale->data(), column_scale->data() + column_scale->size());
  const CodeFormat format{bits, group, has_minima};
  return {keep(panels), panels.size(), std::move(scale), shape.first, shape.second, format};
}

// A read-only view of memory that `owner` holds.
template <typename T>
py::array_t<T> view_of(int64_t size, const T* data, const py::object& owner) {
  py::array_t<T> view(size, data, owner);
  view.attr("flags").attr("writeable") = false;
  return view;
}

template <typename Weight>
py::array_t<uint8_t> panels_of(const py::object& self) {
  const Weight& weight = self.cast<const Weight&>();
  return view_of(weight.panel_bytes(), static_cast<const uint8_t*>(weight.panels()), self);
}

py::object column_scale_of(const py::object& self) {
  const CodeWeight& weight = self.cast<const CodeWeight&>();
  if (!weight.column_scale()) return py::none();
  return view_of(weight.n(), weight.column_scale(), self);
}

void quantise_weight(py::object weight, py::object codes, py::object scales, py::object minima,
                     int bits, int group) {
  const Borrowed weight_ = borrow(weight, "weight"), codes_ = borrow(codes, "codes", Access::write);
  const Borrowed scales_ = borrow(scales, "scales", Access::write);
  const Borrowed minima_ = minima.is_none() ? Borrowed() : borrow(minima, "minima", Access::write);
  py::gil_scoped_release release;
  quantise(weight_.view(), codes_.view(), scales_.view(), minima_.view(), bits, group);
}

}  // namespace

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
  module.attr("PANEL_FORMAT") = kPanelFormat;
  module.def("kv_width", &kv_width, "head_dim"_a,
             "Elements that the keys, or the values, of one block and head take in the pool.");
  module.def("tree_attention", &tree_attention, "q"_a, "kv_layer"_a, "plan"_a, "out"_a,
             "head_dim"_a, "scale"_a, "window"_a = 0, "softcap"_a = 0.0f,
             "Attention of the plan's rows over their paths; q, out: [rows, n_heads * head_dim]. "
             "window w > 0: the last w keys; softcap c > 0: scores become c * tanh(s / c).");
  module.def("keep_last_rows", &keep_last_rows, "x"_a, "plan"_a,
             "Moves the rows plan.last_rows of x: [rows, width] to its front and says how many. "
             "Recorded, it says len(x), and what follows runs over the rows that are kept.");
  py::class_<Pass>(module, "Pass", "Recorded kernel calls, see record.")
      .def(
          "run", &Pass::run, "plan"_a,
          "Makes the calls over the first plan.n_rows rows of their tensors, with this plan; those "
          "after keep_last_rows over len(plan.last_rows).")
      .def("__len__", &Pass::size);
  module.def("record", &record, "body"_a,
             "Calls body() and gives a Pass of the kernels that it called in this thread. They are "
             "not run; the plans given to them stand for those of later runs.");
  py::class_<PackedWeight>(module, "PackedWeight", "A weight [out, in] packed for gemm.")
      .def(py::init([](py::object weight, bool compact) {
             return PackedWeight(borrow(weight, "weight").view(), compact);
           }),
           "weight"_a, "compact"_a = false,
           "compact: 12 bits for every weight, without loss, where it is bf16 and has few "
           "exponents.")
      .def_static("stored", &stored_packed_weight, py::arg("panels").noconvert(), "shape"_a,
                  "dtype"_a, "compact"_a,
                  "A weight from the panels of another: its `panels`, in memory that is kept and "
                  "must not change, such as large_memory's.")
      .def_property_readonly("panels", &panels_of<PackedWeight>)
      .def_property_readonly("dtype", [](const PackedWeight& w) { return dtype_name(w.dtype()); })
      .def_property_readonly("compact",
                             [](const PackedWeight& w) { return w.compact() != nullptr; })
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
      .def_static("stored", &stored_code_weight, py::arg("panels").noconvert(), "column_scale"_a,
                  "shape"_a, "bits"_a, "group"_a, "has_minima"_a,
                  "A weight from the panels and column scales of another, as PackedWeight.stored.")
      .def_property_readonly("panels", &panels_of<CodeWeight>)
      .def_property_readonly("column_scale", &column_scale_of)
      .def_property_readonly("format",
                             [](const CodeWeight& w) {
                               const CodeFormat format = w.format();
                               return py::make_tuple(format.bits, format.group, format.has_min);
                             })
      .def_property_readonly("shape",
                             [](const CodeWeight& w) { return py::make_tuple(w.n(), w.k()); })
      .def_property_readonly("nbytes", &CodeWeight::bytes);
  module.def("quantise", &quantise_weight, "weight"_a, "codes"_a, "scales"_a, "minima"_a, "bits"_a,
             "group"_a, "Round weight: [out, in] fp32 into what CodeWeight takes; it is written.");
  module.def("code_gemm", &code_gemm, "x"_a, "weight"_a, "out"_a, "bias"_a = py::none(),
             "column"_a = 0, "gated"_a = "",
             "As gemm; x is quantised to int8 on the way in, one scale per row and group of k.");
}

}  // namespace branchwise
