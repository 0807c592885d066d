// The C interface of the operators' CUDA kernels: device pointers, sizes, workspace and stream in, a status out.
//
// Semantics are those of plugins/spec.py; the two functions of the runtime's slide mode, at the end, have theirs here.
// The rules that hold for every function:
//   - All tensors are dense, row-major, in device memory. Activations (type "x") are what `dtype` says and lie on a
//     16-byte boundary; int32 and float32 tensors on a 4-byte one.
//   - Nothing is allocated, nothing synchronises with the host; work is queued on `stream` and launch errors are
//     returned.
//   - The workspace needs no initial contents, must be 256-byte aligned and lives until the stream has passed the call.
//     It may be NULL where the query answers 0.
//   - The same input gives the same bits on the same device. Contents never lead outside a buffer: a count, length or
//     index that cannot be right is clamped.
//   - `tokens` (T) is the number of rows of the packed input as the host knows it: exact, or an upper bound. The truth
//     is cu_seqlens[B] on the device. Rows of an output beyond its own cu_seqlens[B] are not written.
//
// Symbols of shapes: B images, E extra tokens, N0 grid tokens of an image, C channels, K classes; of slide mode: n
// windows, (H, W) canvas, (H0, W0) source picture, all as in runtime/windows.py.
#ifndef ALGM_NATIVE_ALGM_H_
#define ALGM_NATIVE_ALGM_H_

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ALGM_API __declspec(dllexport)
#else
#define ALGM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

// The same declaration as in cuda_runtime_api.h, repeated so that callers need no CUDA header.
typedef struct CUstream_st* cudaStream_t;

typedef enum AlgmStatus {
  ALGM_OK = 0,
  ALGM_INVALID_ARGUMENT = 1,     // a NULL or misaligned pointer, or a size or attribute out of range
  ALGM_UNSUPPORTED = 2,          // valid, but there is no kernel for it (head dimension, support)
  ALGM_WORKSPACE_TOO_SMALL = 3,  // fewer bytes than the query asks for
  ALGM_CUDA_ERROR = 4            // a launch failed; algm_last_cuda_error() has the reason
} AlgmStatus;

typedef enum AlgmDtype { ALGM_FLOAT32 = 0, ALGM_FLOAT16 = 1 } AlgmDtype;

// Version of this interface: a change that breaks callers raises it.
ALGM_API int algm_version(void);

// One clear line for a status; never NULL.
ALGM_API const char* algm_status_string(AlgmStatus status);

// What CUDA said to the last ALGM_CUDA_ERROR of the calling thread; "no error" before the first. The library has a CUDA
// runtime of its own, so cudaGetLastError() of the caller's does not know it.
ALGM_API const char* algm_last_cuda_error(void);

// ---------------------------------------------------------------------------------------------------------------------
// AlgmLocalMerge: windows of similar tokens become one token each; (B, E+N0, C) becomes packed tokens.

typedef struct AlgmLocalMergeParams {
  int32_t dtype;          // AlgmDtype of x and y
  int32_t batch;          // B, 1 .. 65535
  int32_t channels;       // C
  int32_t grid_height;    // N0 = grid_height * grid_width
  int32_t grid_width;
  int32_t window_height;  // divides grid_height
  int32_t window_width;   // divides grid_width; a window has at least two tokens
  int32_t extra_tokens;   // E, 1 or 2
} AlgmLocalMergeParams;

// Bytes of workspace; 0 if the parameters are invalid.
ALGM_API size_t algm_local_merge_workspace(const AlgmLocalMergeParams* params);

ALGM_API AlgmStatus algm_local_merge(const AlgmLocalMergeParams* params,
                                     const void* x,           // (B, E+N0, C) x
                                     const float* threshold,  // () float32
                                     void* y,                 // (B*(E+N0), C) x: room for the upper bound
                                     int32_t* sizes,          // (B*(E+N0)) int32: room for the upper bound
                                     int32_t* cu_seqlens,     // (B+1) int32
                                     int32_t* token_map,      // (B, N0) int32
                                     int32_t* count,          // () int32: rows of y in use
                                     void* workspace, size_t workspace_bytes, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------------------
// AlgmGlobalMerge: in each image, tokens at even positions merge into their most similar token at an odd position.

typedef struct AlgmGlobalMergeParams {
  int32_t dtype;         // AlgmDtype of x and y
  int32_t batch;         // B, 1 .. 65535
  int32_t tokens;        // T, rows of x: exact or an upper bound
  int32_t channels;      // C
  int32_t patches;       // N0, columns of token_map
  int32_t layer;         // 1-based encoder layer
  int32_t extra_tokens;  // E, 1 or 2
  int32_t max_tokens;    // no image has more tokens than this; what exceeds it is cut off
} AlgmGlobalMergeParams;

ALGM_API size_t algm_global_merge_workspace(const AlgmGlobalMergeParams* params);

ALGM_API AlgmStatus algm_global_merge(const AlgmGlobalMergeParams* params,
                                      const void* x,              // (T, C) x
                                      const int32_t* sizes,       // (T) int32
                                      const int32_t* cu_seqlens,  // (B+1) int32
                                      const int32_t* token_map,   // (B, N0) int32
                                      void* y,                    // (T, C) x: room for the upper bound
                                      int32_t* new_sizes,         // (T) int32: room for the upper bound
                                      int32_t* new_cu_seqlens,    // (B+1) int32
                                      int32_t* new_token_map,     // (B, N0) int32; must not overlap token_map
                                      int32_t* count,             // () int32: rows of y in use
                                      void* workspace, size_t workspace_bytes, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------------------
// AlgmPackedAttention: softmax attention inside each image. Head dimensions 32, 48, 64, 80, 96 and 128.

typedef struct AlgmPackedAttentionParams {
  int32_t dtype;       // AlgmDtype of qkv and y; FP16 runs on tensor cores, FP32 does not
  int32_t batch;       // B, 1 .. 65535
  int32_t tokens;      // T, rows of qkv: exact or an upper bound
  int32_t channels;    // C = heads * head dimension
  int32_t heads;       // 1 .. 1024
  int32_t max_tokens;  // no image has more tokens than this; what exceeds it is cut off
} AlgmPackedAttentionParams;

// 0 bytes today; callers ask all the same.
ALGM_API size_t algm_packed_attention_workspace(const AlgmPackedAttentionParams* params);

ALGM_API AlgmStatus algm_packed_attention(const AlgmPackedAttentionParams* params,
                                          const void* qkv,            // (T, 3C) x: q, k, v thirds, heads in order
                                          const int32_t* cu_seqlens,  // (B+1) int32
                                          void* y,                    // (T, C) x
                                          void* workspace, size_t workspace_bytes, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------------------
// AlgmAppendTokens: leaves out the first `drop` tokens of each image and appends the K rows of `tokens` to it.

typedef struct AlgmAppendTokensParams {
  int32_t dtype;     // AlgmDtype of x, tokens and y
  int32_t batch;     // B, 1 .. 65535
  int32_t tokens;    // T, rows of x: exact or an upper bound
  int32_t channels;  // C
  int32_t appended;  // K, rows appended to each image
  int32_t drop;      // 0 .. 2
} AlgmAppendTokensParams;

ALGM_API size_t algm_append_tokens_workspace(const AlgmAppendTokensParams* params);

ALGM_API AlgmStatus algm_append_tokens(const AlgmAppendTokensParams* params,
                                       const void* x,              // (T, C) x
                                       const int32_t* cu_seqlens,  // (B+1) int32
                                       const void* tokens,         // (K, C) x
                                       void* y,                    // (T + B*(K-drop), C) x
                                       int32_t* new_cu_seqlens,    // (B+1) int32
                                       void* workspace, size_t workspace_bytes, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------------------
// AlgmUnmerge: packed tokens back to the grid, and the last `appended` tokens of each image apart.

typedef struct AlgmUnmergeParams {
  int32_t dtype;     // AlgmDtype of x, grid and appended
  int32_t batch;     // B, 1 .. 65535
  int32_t tokens;    // T, rows of x: exact or an upper bound
  int32_t channels;  // C
  int32_t patches;   // N0, columns of token_map
  int32_t appended;  // K, 0: only the grid is written
  int32_t drop;      // 0 .. 2: leading tokens that token_map counts and x no longer has
} AlgmUnmergeParams;

ALGM_API size_t algm_unmerge_workspace(const AlgmUnmergeParams* params);

ALGM_API AlgmStatus algm_unmerge(const AlgmUnmergeParams* params,
                                 const void* x,              // (T, C) x
                                 const int32_t* cu_seqlens,  // (B+1) int32
                                 const int32_t* token_map,   // (B, N0) int32
                                 void* grid,                 // (B, N0, C) x
                                 void* appended,             // (B, K, C) x; NULL if K is 0
                                 void* workspace, size_t workspace_bytes, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------------------
// AlgmLabels: bilinear interpolation of logits to full size and argmax, without storing the full-size logits.

typedef struct AlgmLabelsParams {
  int32_t dtype;        // AlgmDtype of logits
  int32_t batch;        // B, 1 .. 65535
  int32_t grid_height;  // h
  int32_t grid_width;   // w
  int32_t classes;      // K
  int32_t height;       // H
  int32_t width;        // W; H * W is below 2^31
} AlgmLabelsParams;

ALGM_API size_t algm_labels_workspace(const AlgmLabelsParams* params);

ALGM_API AlgmStatus algm_labels(const AlgmLabelsParams* params,
                                const void* logits,  // (B, h, w, K) x
                                int32_t* labels,     // (B, H, W) int32
                                void* workspace, size_t workspace_bytes, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------------------
// Slide mode, the way there: windows cut from the canvas of one picture. uint8 tensors may lie at any address.

typedef struct AlgmCutWindowsParams {
  int32_t height;         // H of the canvas
  int32_t width;          // W
  int32_t windows;        // n, below 2^30
  int32_t window_height;  // h, 1 .. H
  int32_t window_width;   // w, 1 .. W
} AlgmCutWindowsParams;

// 0 bytes today; callers ask all the same.
ALGM_API size_t algm_cut_windows_workspace(const AlgmCutWindowsParams* params);

ALGM_API AlgmStatus algm_cut_windows(const AlgmCutWindowsParams* params,
                                     const uint8_t* canvas,   // (H, W, 3) uint8
                                     const int32_t* anchors,  // (n, 2) int32: top, left; clamped to the canvas
                                     uint8_t* windows,        // (n, h, w, 3) uint8; must not overlap canvas
                                     void* workspace, size_t workspace_bytes, cudaStream_t stream);

// ---------------------------------------------------------------------------------------------------------------------
// Slide mode, the way back: the logits of all windows of one picture become labels at the source size; LogitField of
// runtime/field.py on the device. Full-size logits are never stored. Two sparse operators, of rows and of columns, take
// the mosaic of all windows' patches ("nodes") to the source:
//
//     value[y, x, k] = sum over a, b of  Y[y, a]  X[x, b]  mosaic[a, b, k]      in float32
//
// Runs of neighbouring positions that draw on the same nodes form tiles. axis_operators() of runtime/field.py makes the
// four arrays of an axis.
//
// The label is the class of the largest value, the lowest of equals. A NaN wins nowhere; where nothing is above -inf,
// the label is 0. A source position that no tile holds, or that is not among the first 32 of its tile, is not written.

typedef struct AlgmSlideLabelsParams {
  int32_t dtype;           // AlgmDtype of logits
  int32_t windows_down;    // n = windows_down * windows_across, row by row
  int32_t windows_across;
  int32_t classes;         // K, 1 .. 65535
  int32_t grid_height;     // gh, patches of a window
  int32_t grid_width;      // gw
  int32_t height;          // H0 of the source
  int32_t width;           // W0
  int32_t row_tiles;       // Ty, 1 .. H0
  int32_t column_tiles;    // Tx, 1 .. W0
  int32_t row_support;     // Sy, columns of row_nodes and row_shares, 1 .. 32768; more is ALGM_UNSUPPORTED
  int32_t column_support;  // Sx, columns of column_nodes and column_shares, likewise
} AlgmSlideLabelsParams;

// Room for the mosaic: about the bytes of the logits.
ALGM_API size_t algm_slide_labels_workspace(const AlgmSlideLabelsParams* params);

ALGM_API AlgmStatus algm_slide_labels(const AlgmSlideLabelsParams* params,
                                      const void* logits,              // (n, K, gh, gw) float32 or float16
                                      const int32_t* row_starts,       // (Ty+1) int32: first row of each tile, then H0
                                      const int32_t* row_supports,     // (Ty) int32: nodes of each tile, 1 .. Sy
                                      const int32_t* row_nodes,        // (Ty, Sy) int32 in 0 .. windows_down*gh - 1
                                      const float* row_shares,         // (H0, Sy) float32: part of its tile's nodes
                                      const int32_t* column_starts,    // (Tx+1) int32
                                      const int32_t* column_supports,  // (Tx) int32
                                      const int32_t* column_nodes,     // (Tx, Sx) int32 in 0 .. windows_across*gw - 1
                                      const float* column_shares,      // (W0, Sx) float32
                                      void* labels,                    // (H0, W0) uint8 up to 256 classes, else uint16
                                      int32_t* finite,                 // () int32: 1 if every logit is a finite number
                                      void* workspace, size_t workspace_bytes, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif  // ALGM_NATIVE_ALGM_H_
