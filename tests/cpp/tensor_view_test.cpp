// Shape checks bind names on first use and say which argument and axis is wrong.
#include "core/tensor_view.h"

#include <algorithm>

#include "test.h"

namespace branchwise {
namespace {

TensorView view(DType dtype, std::initializer_list<int64_t> shape) {
  TensorView tensor{.dtype = dtype, .n_dims = static_cast<int32_t>(shape.size())};
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  return tensor;
}

TEST(names_bind_and_must_agree) {
  Shapes shapes;
  shapes.check("x", view(DType::f32, {3, 5}), {DType::f32, DType::bf16}, {"rows", "dim"});
  EXPECT_EQ(shapes["rows"], 3);
  EXPECT_EQ(shapes["dim"], 5);
  shapes.check("gate_up", view(DType::f32, {3, 10}), {DType::f32}, {"rows", 2 * shapes["dim"]});
  EXPECT_THROWS(std::invalid_argument,
                "out has shape [4, 5], expected [rows, dim]: axis 0 must be 3",
                shapes.check("out", view(DType::f32, {4, 5}), {DType::f32}, {"rows", "dim"}));
  EXPECT_THROWS(
      std::invalid_argument, "axis 1 must be 10",
      shapes.check("gate_up", view(DType::f32, {3, 9}), {DType::f32}, {"rows", int64_t{10}}));
}

TEST(dtype_and_number_of_axes_are_checked) {
  Shapes shapes;
  EXPECT_THROWS(std::invalid_argument, "x is int32, expected float32 or bfloat16",
                shapes.check("x", view(DType::i32, {3}), {DType::f32, DType::bf16}, {"rows"}));
  EXPECT_THROWS(std::invalid_argument, "x has shape [3], expected [rows, dim]",
                shapes.check("x", view(DType::f32, {3}), {DType::f32}, {"rows", "dim"}));
  EXPECT_THROWS(BrokenInvariant, "no tensor bound", shapes["never"]);
}

TEST(size_counts_elements) {
  EXPECT_EQ(view(DType::f32, {}).size(), 1);
  EXPECT_EQ(view(DType::f32, {3, 0, 2}).size(), 0);
  EXPECT_EQ(view(DType::f32, {3, 7, 2}).size(), 42);
}

}  // namespace
}  // namespace branchwise
