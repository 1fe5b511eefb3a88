// Binds packed weights, their products, and the memory they lie in.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "bind/pass.h"
#include "core/large_memory.h"
#include "cpu/products/dense_weight.h"
#include "cpu/quantised/quantise.h"
#include "cpu/quantised/quantised_weight.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {
namespace {

py::array_t<uint8_t> large_array(int64_t bytes) {
  CHECK_ARG(bytes > 0, "bytes is ", bytes, ", expected more than 0");
  auto* owner = new std::shared_ptr<void>(large_memory(bytes));
  const py::capsule base(owner, [](void* p) { delete static_cast<std::shared_ptr<void>*>(p); });
  return py::array_t<uint8_t>(bytes, static_cast<const uint8_t*>(owner->get()), base);
}

// Columns [column, column + n) of a product's result; n / 2 of them where it ends in `kind`.
struct Target {
  Borrowed x, out, bias;
  int64_t rows, columns;  // of out
  void* data;             // out at `column`
  const void* bias_data;
  Act act;

  // dtypes: that all of them may be of
  Target(py::object x_, py::object out_, py::object bias_, std::initializer_list<DType> dtypes,
         int64_t n, int64_t k, int64_t column, const std::string& kind)
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
    shapes.check("x", x.view(), dtypes, {"rows", k});
    shapes.check("out", out.view(), {x->dtype}, {"rows", "columns"});
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

void gemm(py::object x, const DenseWeight& packed, py::object out, py::object bias, int64_t column,
          const std::string& gated) {
  Target to(x, out, bias, {packed.dtype()}, packed.n(), packed.k(), column, gated);
  const GemmArgs args{
      to.x->data, packed.panels(),    to.bias_data, to.data,    nullptr,
      to.rows,    packed.n(),         packed.k(),   to.columns, real_of(packed.dtype()),
      to.act,     packed.twelve_bit()};
  multiply(args, to, packed);
}

void quantised_gemm(py::object x, const QuantisedWeight& weight, py::object out, py::object bias,
                    int64_t column, const std::string& gated) {
  Target to(x, out, bias, kReal, weight.n(), weight.k(), column, gated);
  const QuantisedGemmArgs args{to.x->data,   weight.panels(), weight.column_scale(),
                               to.bias_data, to.data,         nullptr,
                               to.rows,      weight.n(),      weight.k(),
                               to.columns,   weight.format(), real_of(to.x->dtype),
                               to.act};
  multiply(args, to, weight);
}

QuantisedWeight make_quantised_weight(py::object codes, py::object scales, py::object minima,
                                      int bits, int group) {
  const Borrowed codes_ = borrow(codes, "codes"), scales_ = borrow(scales, "scales");
  if (minima.is_none()) return {codes_.view(), scales_.view(), {}, bits, group};
  const Borrowed minima_ = borrow(minima, "minima");
  return {codes_.view(), scales_.view(), minima_.view(), bits, group};
}

// Memory of an array, which stays alive. The last holder must have the GIL.
std::shared_ptr<void> keep(const py::array& array) {
  return {const_cast<void*>(array.data()), [array](void*) {}};
}

DenseWeight dense_weight_from_panels(const py::array_t<uint8_t, py::array::c_style>& panels,
                                     const std::pair<int64_t, int64_t>& shape,
                                     const std::string& dtype, bool twelve_bit) {
  CHECK_ARG(dtype == "float32" || dtype == "bfloat16", "dtype is ", dtype,
            ", expected float32 or bfloat16");
  const DType type = dtype == "float32" ? DType::f32 : DType::bf16;
  return {keep(panels), panels.size(), shape.first, shape.second, type, twelve_bit};
}

QuantisedWeight quantised_weight_from_panels(
    const py::array_t<uint8_t, py::array::c_style>& panels,
    const std::optional<py::array_t<float, py::array::c_style>>& column_scale,
    const std::pair<int64_t, int64_t>& shape, int bits, int group, bool has_minima) {
  std::vector<float> scale;
  if (column_scale) scale.assign(column_scale->data(), column_scale->data() + column_scale->size());
  const QuantisedFormat format{bits, group, has_minima};
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
  const QuantisedWeight& weight = self.cast<const QuantisedWeight&>();
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

void bind_weights(py::module_& module) {
  module.def("large_memory", &large_array, "bytes"_a,
             "[bytes] uint8 in huge pages where there are any, not initialised and not yet taken.");
  module.attr("PANEL_WIDTH") = kPanelWidth;
  module.attr("PANEL_FORMAT") = kPanelFormat;
  py::class_<DenseWeight>(module, "DenseWeight", "A weight [out, in] packed for gemm.")
      .def(py::init([](py::object weight, bool twelve_bit) {
             return DenseWeight(borrow(weight, "weight").view(), twelve_bit);
           }),
           "weight"_a, "twelve_bit"_a = false,
           "twelve_bit: 12 bits for every weight, without loss, where it is bf16 and has few "
           "exponents.")
      .def_static("from_panels", &dense_weight_from_panels, py::arg("panels").noconvert(),
                  "shape"_a, "dtype"_a, "twelve_bit"_a,
                  "A weight from the panels of another: its `panels`, in memory that is kept and "
                  "must not change, such as large_memory's.")
      .def_property_readonly("panels", &panels_of<DenseWeight>)
      .def_property_readonly("dtype", [](const DenseWeight& w) { return dtype_name(w.dtype()); })
      .def_property_readonly("twelve_bit",
                             [](const DenseWeight& w) { return w.twelve_bit() != nullptr; })
      .def_property_readonly("shape",
                             [](const DenseWeight& w) { return py::make_tuple(w.n(), w.k()); })
      .def_property_readonly("nbytes", &DenseWeight::bytes);
  module.def(
      "gemm", &gemm, "x"_a, "packed"_a, "out"_a, "bias"_a = py::none(), "column"_a = 0,
      "gated"_a = "",
      "out[:, column:column + n] = x @ weight.T + bias; x: [rows, in], out: [rows, columns], "
      "bias: [columns], all of the weight's dtype. A row's bits do not depend on the other rows.");
  py::class_<QuantisedWeight>(module, "QuantisedWeight",
                              "A weight of small integers packed for quantised_gemm.")
      .def(py::init(&make_quantised_weight), "codes"_a, "scales"_a, "minima"_a, "bits"_a, "group"_a,
           "codes: [out, in] uint8; scales: [out, in / group] fp32, or [out, 1] for group 0; "
           "minima: as scales, or None: then weights are scale * (code - 2^(bits - 1)).")
      .def_static(
          "from_panels", &quantised_weight_from_panels, py::arg("panels").noconvert(),
          "column_scale"_a, "shape"_a, "bits"_a, "group"_a, "has_minima"_a,
          "A weight from the panels and column scales of another, as DenseWeight.from_panels.")
      .def_property_readonly("panels", &panels_of<QuantisedWeight>)
      .def_property_readonly("column_scale", &column_scale_of)
      .def_property_readonly("format",
                             [](const QuantisedWeight& w) {
                               const QuantisedFormat format = w.format();
                               return py::make_tuple(format.bits, format.group, format.has_min);
                             })
      .def_property_readonly("shape",
                             [](const QuantisedWeight& w) { return py::make_tuple(w.n(), w.k()); })
      .def_property_readonly("nbytes", &QuantisedWeight::bytes);
  module.def("quantise", &quantise_weight, "weight"_a, "codes"_a, "scales"_a, "minima"_a, "bits"_a,
             "group"_a,
             "Round weight: [out, in] fp32 into what QuantisedWeight takes; it is written.");
  module.def(
      "quantised_gemm", &quantised_gemm, "x"_a, "weight"_a, "out"_a, "bias"_a = py::none(),
      "column"_a = 0, "gated"_a = "",
      "As gemm, in fp32 or bf16; x is quantised to int8 on the way in, one scale per row and "
      "group of k.");
}

}  // namespace branchwise
