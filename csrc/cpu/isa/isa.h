// Which instruction set the kernels use: chosen once, from the CPU and BRANCHWISE_CPU_ISA.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cpu/isa/kernels.h"

namespace branchwise {

// Names of the instruction sets that this CPU runs, the best last.
std::vector<std::string> supported_isas();

// The kernels in use and their name. The first call chooses: BRANCHWISE_CPU_ISA if that is set,
// else the best. Throws std::invalid_argument if the name is unknown or unsupported here.
const Kernels& kernels();
std::string isa();

// Changes the choice, for tests: no kernel may be running.
void use_isa(std::string_view name);

}  // namespace branchwise
