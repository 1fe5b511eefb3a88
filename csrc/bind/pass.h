// Calls of kernels: run at once, or recorded into a Pass that runs them again over other plans.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "bind/dlpack.h"
#include "core/attention_plan.h"
#include "cpu/isa/launch.h"
#include "cpu/isa/program.h"

namespace branchwise {

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
  void keep(pybind11::object weight) { weights_.push_back(std::move(weight)); }
  void bound(int64_t n_blocks, int64_t n_positions) {
    n_blocks_ = std::min(n_blocks_, n_blocks), n_positions_ = std::min(n_positions_, n_positions);
  }

  void run(const AttentionPlan& plan);
  int64_t size() const { return program_.size(); }

 private:
  static constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  Program program_;
  std::vector<Borrowed> tensors_;
  std::vector<pybind11::object> weights_;
  int64_t rows_ = kAny, n_blocks_ = kAny, n_positions_ = kAny;
};

// What kernels are recorded into in this thread; null: they run.
extern thread_local Pass* recording;

// Runs a call over `rows` rows, or adds it to the recording, with the tensors that it needs.
template <typename Args, typename... Owners>
void call(const Args& args, int64_t rows, Owners&&... owners) {
  if (recording) return recording->add(args, rows, std::forward<Owners>(owners)...);
  pybind11::gil_scoped_release release;
  launch(args);
}

// Rows that a tensor of a call with a plan must have. Recorded calls meet their plans later.
Dim rows_of(const AttentionPlan& plan);
// The plan stays inside the pool and the tables of angles; that of a recorded call must later.
void check_call(const AttentionPlan& plan, int64_t n_blocks, int64_t n_positions);

}  // namespace branchwise
