// Whether the kernels of an operator can take its parameters: launchers ask before each call, plugins when configured.
#ifndef ALGM_NATIVE_COMMON_VALIDITY_H_
#define ALGM_NATIVE_COMMON_VALIDITY_H_

#include "algm.h"

namespace algm {

// False for NULL too. Each is beside its launcher.
bool isValid(const AlgmLocalMergeParams* params);
bool isValid(const AlgmGlobalMergeParams* params);
bool isValid(const AlgmPackedAttentionParams* params);
bool isValid(const AlgmAppendTokensParams* params);
bool isValid(const AlgmUnmergeParams* params);
bool isValid(const AlgmLabelsParams* params);

}  // namespace algm

#endif  // ALGM_NATIVE_COMMON_VALIDITY_H_
