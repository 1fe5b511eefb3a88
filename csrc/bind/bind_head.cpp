// Binds what follows the layers: sampling behind lm_head, PRM probabilities, instruction sets.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>

#include "bind/bind.h"
#include "bind/dlpack.h"
#include "cpu/head/head_sampler.h"
#include "cpu/isa/isa.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {
namespace {

py::array_t<float> prm_probability(py::object logits, const std::string& kind) {
  const Borrowed logits_ = borrow(logits, "logits");
  const bool pair = kind == "softmax0" || kind == "softmax1";
  CHECK_ARG(pair || kind == "sigmoid", "kind is '", kind,
            "', expected 'sigmoid', 'softmax0' or 'softmax1'");
  Shapes shapes;
  shapes.check("logits", logits_.view(), {DType::f32}, {"rows", int64_t{pair ? 2 : 1}});
  const int64_t rows = shapes["rows"];
  const float* value = logits_.as<float>();
  py::array_t<float> out(rows);
  for (int64_t row = 0; row < rows; ++row) {
    double x = pair ? double{value[2 * row]} - value[2 * row + 1] : value[row];
    if (kind == "softmax1") x = -x;
    out.mutable_at(row) = static_cast<float>(1 / (1 + std::exp(-x)));
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

void penalise(HeadSampler& sampler, const Array<float>& repetition, const Array<float>& presence,
              const Array<float>& frequency, const Array<int64_t>& begins,
              const Array<int32_t>& words, const Array<int32_t>& counts) {
  const int64_t rows = sampler.rows();
  const auto check = [](const py::array& array, int64_t size, const char* name) {
    CHECK_ARG(array.ndim() == 1 && array.size() == size, name, " has ", array.ndim(), " axes and ",
              array.size(), " values, expected ", size);
  };
  check(repetition, rows, "repetition"), check(presence, rows, "presence");
  check(frequency, rows, "frequency"), check(begins, rows + 1, "begins");
  check(counts, words.size(), "counts"), check(words, words.size(), "words");
  std::vector<PenaltySpec> specs(rows);
  for (int64_t i = 0; i < rows; ++i) {
    specs[i] = {repetition.at(i), presence.at(i), frequency.at(i), {}};
    const int64_t begin = begins.at(i), end = begins.at(i + 1);
    CHECK_ARG(0 <= begin && begin <= end && end <= words.size(), "row ", i, " has words ", begin,
              " to ", end, " of ", words.size(), ": expected ranges in order");
    specs[i].seen.reserve(end - begin);
    for (int64_t j = begin; j < end; ++j) specs[i].seen.push_back({words.at(j), counts.at(j), 0});
  }
  sampler.penalise(std::move(specs));
}

void ask_sureness(HeadSampler& sampler, const Array<int32_t>& top) {
  CHECK_ARG(top.ndim() == 1, "top has ", top.ndim(), " axes, expected 1");
  sampler.ask_sureness({top.data(), top.data() + top.size()});
}

py::array_t<float> sureness(const HeadSampler& sampler) {
  static_assert(sizeof(Sureness) == 2 * sizeof(float));
  py::array_t<float> found({sampler.rows(), int64_t{2}});
  sampler.sureness(reinterpret_cast<Sureness*>(found.mutable_data()));
  return found;
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

}  // namespace

void bind_head(py::module_& module) {
  module.def("isa", &isa, "The instruction set of the kernels in use.");
  module.def("supported_isas", &supported_isas, "Those that this CPU runs, the best last.");
  module.def("_use_isa", &use_isa, "name"_a, "Changes the instruction set, for tests.");
  module.def("_apply", &apply, "name"_a, "x"_a, "out"_a, "A vector function, for tests.");
  module.def("prm_probability", &prm_probability, "logits"_a, "kind"_a,
             "P(good) [rows] of logits [rows, 1] ('sigmoid') or [rows, 2] ('softmax0', 'softmax1': "
             "which class is good), all fp32.");
  py::class_<HeadSampler>(module, "HeadSampler", "Draws tokens from logits in vocabulary tiles.")
      .def(py::init<int64_t, int64_t>(), "max_rows"_a, "vocab_size"_a)
      .def("begin", &begin, "seeds"_a, "lineages"_a, "positions"_a, "temperature"_a, "top_p"_a,
           "top_k"_a, "min_p"_a,
           "Starts one draw per row; all [rows]. temperature 0 is greedy; top_p 1, top_k 0 and "
           "min_p 0 switch a filter off.")
      .def(
          "penalise", &penalise, "repetition"_a, "presence"_a, "frequency"_a, "begins"_a, "words"_a,
          "counts"_a,
          "Penalties of these draws, all [rows]; row r has seen words[begins[r]:begins[r + 1]], in "
          "order, and written each counts[...] times (0: only given, -1: never to be drawn).")
      .def("ask_sureness", &ask_sureness, "top"_a,
           "The k of each row's confidence, [rows]; 0: not told. Between `begin` and the first "
           "tile.")
      .def("tile", &tile, "logits"_a, "first_word"_a, "softcap"_a = 0.0f,
           "Logits [rows, words] from word first_word on. Tiles come in order; all but the last "
           "hold a multiple of 1024 words.")
      .def("finish", &finish,
           "(tokens [rows] int32, logprobs [rows] fp32 at temperature 1 without penalties and "
           "filters); -1 and NaN where the logits hold NaN or infinity.")
      .def("sureness", &sureness,
           "After `finish`, [rows, 2] fp32: confidence and certainty of the rows that asked, else "
           "NaN.");
}

}  // namespace branchwise
