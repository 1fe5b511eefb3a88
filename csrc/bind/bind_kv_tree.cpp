// Binds KvTree; handles are plain integers in Python.
#include <pybind11/stl.h>

#include <optional>

#include "bind/bind.h"
#include "core/kv_tree.h"

namespace py = pybind11;
using namespace py::literals;

namespace branchwise {
namespace {

std::vector<int64_t> fork(KvTree& tree, int64_t node, int32_t n) {
  std::vector<int64_t> handles;
  for (NodeHandle child : tree.fork(NodeHandle{node}, n)) handles.push_back(to_int(child));
  return handles;
}

int64_t split(KvTree& tree, int64_t node, int32_t length) {
  return to_int(tree.split(NodeHandle{node}, length));
}

std::optional<int64_t> parent(const KvTree& tree, int64_t node) {
  NodeHandle handle{};
  if (!tree.find_parent(NodeHandle{node}, handle)) return std::nullopt;
  return to_int(handle);
}

std::vector<int32_t> blocks(const KvTree& tree, int64_t node) {
  std::vector<int32_t> ids;
  for (BlockId block : tree.blocks(NodeHandle{node})) ids.push_back(to_int(block));
  return ids;
}

int32_t releasable_blocks(const KvTree& tree, const std::vector<int64_t>& nodes) {
  return tree.releasable_blocks(nodes);
}

// A method on one node as a function of its integer handle.
template <auto method, typename Tree, typename... Args>
auto on_node(Tree& tree, int64_t node, Args... args) {
  return (tree.*method)(NodeHandle{node}, args...);
}

}  // namespace

void bind_kv_tree(py::module_& module) {
  py::class_<KvTree>(module, "KvTree", "Reasoning steps that share one pool of KV blocks.")
      .def(py::init<int32_t, int32_t>(), "n_blocks"_a, "block_size"_a = 32)
      .def(
          "add_root", [](KvTree& tree) { return to_int(tree.add_root()); },
          "A new open node without a parent, at position 0.")
      .def("fork", &fork, "node"_a, "n"_a, "`n` open, empty children of a sealed node.")
      .def("append", &on_node<&KvTree::append, KvTree, int32_t>, "node"_a, "n_tokens"_a,
           "Reserves slots at the end of an open node; raises OutOfMemory and changes nothing if "
           "the pool cannot hold them.")
      .def("truncate", &on_node<&KvTree::truncate, KvTree, int32_t>, "node"_a, "length"_a,
           "Forgets the tokens of an open node from `length` on.")
      .def("seal", &on_node<&KvTree::seal, KvTree>, "node"_a,
           "Ends a step: its tokens never change again.")
      .def("hold", &on_node<&KvTree::hold, KvTree>, "node"_a,
           "One more hold on a node, for one more `prune`.")
      .def("prune", &on_node<&KvTree::prune, KvTree>, "node"_a,
           "Drops a hold; with the last one frees the node and then its ancestors, unless children "
           "need them.")
      .def(
          "split", &split, "node"_a, "length"_a,
          "Cuts a sealed node behind its first `length` tokens, a multiple of the block size: they "
          "become a sealed node in front of it, with one hold, whose handle is returned. The node "
          "keeps its handle, holds and children. No KV moves.")
      .def("length", &on_node<&KvTree::length, const KvTree>, "node"_a, "Tokens in the node.")
      .def("start", &on_node<&KvTree::start, const KvTree>, "node"_a,
           "Absolute position of the node's first token.")
      .def("parent", &parent, "node"_a, "The parent's handle; None for a root.")
      .def("is_sealed", &on_node<&KvTree::is_sealed, const KvTree>, "node"_a)
      .def("n_holds", &on_node<&KvTree::n_holds, const KvTree>, "node"_a)
      .def("n_children", &on_node<&KvTree::n_children, const KvTree>, "node"_a, "Live children.")
      .def("blocks", &blocks, "node"_a, "Ids of the node's blocks, in order of position.")
      .def("releasable_blocks", &releasable_blocks, "nodes"_a,
           "Blocks that would be free if one hold of each of these nodes, held and distinct, were "
           "dropped.")
      .def("check", &KvTree::check,
           "Verifies every invariant from scratch; raises RuntimeError if one is broken.")
      .def_property_readonly("n_blocks", &KvTree::n_blocks)
      .def_property_readonly("n_free_blocks", &KvTree::n_free_blocks)
      .def_property_readonly("n_nodes", &KvTree::n_nodes)
      .def_property_readonly("block_size", &KvTree::block_size)
      .def_property_readonly("held_slots", &KvTree::held_slots,
                             "Slots of all held blocks, used or not.");
}

}  // namespace branchwise
