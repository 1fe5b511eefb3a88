// Binds the kernels of a decoder layer, all but products: checks shapes, types and indices.
#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "bind/bind.h"
#include "bind/pass.h"
#include "cpu/products/dense_weight.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {
namespace {

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
  module.def("kv_width", &kv_width, "head_dim"_a,
             "Elements that the keys, or the values, of one block and head take in the pool.");
  module.def("tree_attention", &tree_attention, "q"_a, "kv_layer"_a, "plan"_a, "out"_a,
             "head_dim"_a, "scale"_a, "window"_a = 0, "softcap"_a = 0.0f,
             "Attention of the plan's rows over their paths; q, out: [rows, n_heads * head_dim]. "
             "window w > 0: the last w keys; softcap c > 0: scores become c * tanh(s / c).");
  module.def("keep_last_rows", &keep_last_rows, "x"_a, "plan"_a,
             "Moves the rows plan.last_rows of x: [rows, width] to its front and says how many. "
             "Recorded, it says len(x), and what follows runs over the rows that are kept.");
}

}  // namespace branchwise
