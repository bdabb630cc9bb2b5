// The products of engine.js in WebAssembly's 128-bit vectors. Built with (Debian 12: clang 14, lld 14)
//
//   clang --target=wasm32 -msimd128 -O3 -ffreestanding -nostdlib -Wl,--no-entry,--import-memory,--strip-all,-z,stack-size=0 -o kernels.wasm kernels.c
//
// The memory is engine.js's alone, so nothing here may need a stack: all arrays become registers. -ffreestanding sees to
// that: without it clang copies vectors by memcpy, through memory.

#include <wasm_simd128.h>

#define PIXELS 4 // that are computed together
#define PANEL 8  // see network.py

typedef float vector __attribute__((vector_size(16), aligned(4)));

static inline float *at(int index) { return (float *)(index * (int)sizeof(float)); }

static inline int smaller(int a, int b) { return a < b ? a : b; }

// PIXELS neighbourhoods times `vectors` * 4 features, a constant where it is called; `features` of them are written.
static inline __attribute__((always_inline)) void tile(
    const int vectors, const int source[PIXELS], int segments, int segment_pitch, int length, const float *weights,
    const float *bias, const int result[PIXELS], int features, float slope) {
  vector sums[PIXELS][2];
  const float *pixel[PIXELS];
  for (int p = 0; p < PIXELS; p++) {
    pixel[p] = at(source[p]);
    for (int v = 0; v < vectors; v++) sums[p][v] = ((const vector *)bias)[v];
  }
  for (int segment = 0; segment < segments; segment++) {
    for (int i = 0; i < length; i++) {
      const vector *w = (const vector *)weights;
      weights += 4 * vectors;
      for (int p = 0; p < PIXELS; p++) {
        for (int v = 0; v < vectors; v++) sums[p][v] += pixel[p][i] * w[v];
      }
    }
    for (int p = 0; p < PIXELS; p++) pixel[p] += segment_pitch;
  }
  for (int p = 0; p < PIXELS; p++) {
    for (int v = 0; v < vectors; v++) {
      const vector y = wasm_f32x4_max(sums[p][v], slope * sums[p][v]); // slope <= 1
      float *to = at(result[p]) + 4 * v;
      if (features >= 4 * v + 4) {
        *(vector *)to = y;
      } else {
        if (features > 4 * v) to[0] = y[0];
        if (features > 4 * v + 1) to[1] = y[1];
        if (features > 4 * v + 2) to[2] = y[2];
      }
    }
  }
}

// engine.js says what the arguments are.
__attribute__((export_name("multiply"))) void multiply(
    int count, int height, int width, int source, int source_image, int source_row, int source_pixel, int segments,
    int segment_pitch, int length, int weights, int bias, int features, int result, int result_image, int result_row,
    int result_pixel, float slope) {
  const int pixels = count * height * width;
  for (int feature = 0; feature < features; feature += PANEL) {
    const int left = features - feature;
    for (int first = 0; first < pixels; first += PIXELS) {
      int from[PIXELS], to[PIXELS];
      for (int p = 0; p < PIXELS; p++) {
        const int pixel = smaller(first + p, pixels - 1); // the last one again, where there are no more
        const int row = pixel / width, x = pixel % width, image = row / height, y = row % height;
        from[p] = source + image * source_image + y * source_row + x * source_pixel;
        to[p] = result + image * result_image + y * result_row + x * result_pixel + feature;
      }
      const float *w = at(weights), *b = at(bias + feature);
      if (left > 4) tile(2, from, segments, segment_pitch, length, w, b, to, left, slope);
      else tile(1, from, segments, segment_pitch, length, w, b, to, left, slope);
    }
    weights += segments * length * PANEL;
  }
}
