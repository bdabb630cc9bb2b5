// Runs a network that network.py has packed: DcganEngine.create(spec, weights), then run(input).
//
// All numbers lie in one float32 memory: the weights, then a padded copy of a layer's input (`source`), then the maps
// that are passed from layer to layer, [n, height, width, features]. The products are computed by kernels.wasm, or,
// where a browser or a page's policy does not have it, by the same function in JavaScript.

const DcganEngine = (() => {
  'use strict';

  const KERNELS = ''; // kernels.wasm in base64; network.py fills it in
  const BATCH = 4; // images that pass through the layers together: more are no faster
  const PANEL = 8; // see network.py
  const PAGE = 65536; // bytes

  /**
   * @param spec: description by network.py's `pack`
   * @param weights: ArrayBuffer, float16
   * @param backend: 'wasm', 'js' or 'auto': WebAssembly if it can be had
   */
  async function create(spec, weights, {backend = 'auto'} = {}) {
    const halves = new Uint16Array(weights);
    const source = halves.length;
    const maps = source + BATCH * Math.max(...spec.layers.map(sourceSize));
    const sizes = spec.layers.flatMap((layer) => [product(layer.source), product(layer.result)]);
    const size = maps + BATCH * Math.max(...sizes);
    const kernels = await load(size, backend);
    for (let i = 0; i < source; i++) kernels.heap[i] = FLOAT_OF_HALF[halves[i]];
    return new Network(spec, kernels, source, maps);
  }

  class Network {
    constructor(spec, kernels, source, maps) {
      this.backend = kernels.backend;
      this.inputSize = product(spec.input);
      this.outputSize = product(spec.layers[spec.layers.length - 1].shape);
      this.classes = spec.labels;
      this.layers = spec.layers.map((layer) => new Layer(layer, kernels, source, maps));
      this.heap = kernels.heap;
      this.maps = maps;
    }

    /**
     * @param input: Float32Array [n, ...]: noise, or images in the network's range
     * @param labels: Int32Array [n] of a conditional network
     * @param gates: factors of a layer's features by its name, {deconv1: Float32Array}
     * @param taps: names of layers whose results are wanted
     * @returns {output: Float32Array [n, ...], taps: {name: Float32Array [n, height, width, features]}}
     */
    run(input, {labels, gates = {}, taps = []} = {}) {
      const count = input.length / this.inputSize;
      this.check(count, labels, gates, taps);
      const output = new Float32Array(count * this.outputSize);
      const tapped = {};
      for (const layer of this.layers) {
        if (taps.includes(layer.name)) tapped[layer.name] = new Float32Array(count * layer.size);
      }
      for (let first = 0; first < count; first += BATCH) {
        const last = Math.min(first + BATCH, count);
        this.heap.set(input.subarray(first * this.inputSize, last * this.inputSize), this.maps);
        for (const layer of this.layers) {
          layer.run(last - first, labels && labels.subarray(first, last), gates[layer.name]);
          if (layer.name in tapped) tapped[layer.name].set(layer.values(last - first), first * layer.size);
        }
        output.set(this.layers[this.layers.length - 1].values(last - first), first * this.outputSize);
      }
      return {output, taps: tapped};
    }

    check(count, labels, gates, taps) {
      if (!Number.isInteger(count)) throw new RangeError(`the input must be a multiple of ${this.inputSize} numbers`);
      if (this.classes && !(labels && labels.length === count && labels.every((k) => k >= 0 && k < this.classes))) {
        throw new RangeError(`${count} labels from 0 to ${this.classes - 1} are needed`);
      }
      const features = new Map(this.layers.map((layer) => [layer.name, layer.features]));
      for (const name of [...Object.keys(gates), ...taps]) {
        const names = [...features.keys()].join(', ');
        if (!features.has(name)) throw new RangeError(`there is no layer ${name}, only ${names}`);
      }
      for (const [name, gate] of Object.entries(gates)) {
        if (gate.length !== features.get(name)) throw new RangeError(`${name} needs ${features.get(name)} gates`);
      }
    }
  }

  class Layer {
    constructor(spec, kernels, source, maps) {
      this.name = spec.name;
      this.size = product(spec.shape);
      this.features = spec.shape[2];
      this.spec = spec;
      this.kernels = kernels;
      this.heap = kernels.heap;
      this.source = source;
      this.maps = maps;
      const [rows, columns, features] = paddedShape(spec);
      const [height, width, units] = spec.result;
      // The arguments of `multiply` behind the number of images.
      this.products = spec.phases.map((phase) => [
        height / spec.spread, width / spec.spread,
        source + (phase.top * columns + phase.left) * features,
        rows * columns * features, spec.step * columns * features, spec.step * features,
        phase.rows, columns * features, phase.columns * features,
        phase.weights, spec.bias, units,
        maps + (phase.y * width + phase.x) * units,
        height * width * units, spec.spread * width * units, spec.spread * units,
        SLOPES[spec.activation] ?? 1,
      ]);
    }

    /** Replaces the first `count` maps by this layer's. */
    run(count, labels, gate) {
      if (this.spec.mean > 1) this.average(count);
      this.place(count, labels);
      for (const numbers of this.products) this.kernels.multiply(count, ...numbers);
      if (this.spec.activation in CURVES) this.bend(count, CURVES[this.spec.activation]);
      if (this.spec.pool) this.pool(count);
      if (gate) this.scale(count, gate);
    }

    values(count) {
      return this.heap.subarray(this.maps, this.maps + count * this.size);
    }

    /** Means over the pixels. */
    average(count) {
      const {heap, maps, spec: {mean, source}} = this;
      const features = product(source);
      for (let image = 0; image < count; image++) {
        for (let feature = 0; feature < features; feature++) {
          let sum = 0;
          for (let pixel = 0; pixel < mean; pixel++) sum += heap[maps + (image * mean + pixel) * features + feature];
          heap[maps + image * features + feature] = sum / mean;
        }
      }
    }

    /** Copies the maps to `source`, with zeros around them and one-hot labels behind each pixel's features. */
    place(count, labels) {
      const {heap, maps, source, spec} = this;
      const [height, width, features] = spec.source;
      const [rows, columns, joined] = paddedShape(spec);
      const border = spec.padding[0];
      if (rows > height || spec.labels) heap.fill(0, source, source + count * rows * columns * joined);
      const run = spec.labels ? 1 : width; // pixels that stay neighbours in memory
      for (let image = 0; image < count; image++) {
        for (let y = 0; y < height; y++) {
          for (let x = 0; x < width; x += run) {
            const from = maps + ((image * height + y) * width + x) * features;
            const to = source + ((image * rows + border + y) * columns + border + x) * joined;
            heap.copyWithin(to, from, from + run * features);
            if (spec.labels) heap[to + features + labels[image]] = 1;
          }
        }
      }
    }

    bend(count, curve) {
      const {heap, maps} = this;
      const end = maps + count * product(this.spec.result);
      for (let i = maps; i < end; i++) heap[i] = curve(heap[i]);
    }

    /** Largest values of 2 x 2 pixels. */
    pool(count) {
      const {heap, maps, spec} = this;
      const [height, width, features] = spec.shape;
      for (let row = 0; row < count * height; row++) {
        for (let x = 0; x < width; x++) {
          const to = maps + (row * width + x) * features;
          const from = maps + (row * width * 4 + x * 2) * features;
          const below = from + width * 2 * features;
          for (let i = 0; i < features; i++) {
            const above = Math.max(heap[from + i], heap[from + features + i]);
            heap[to + i] = Math.max(above, heap[below + i], heap[below + features + i]);
          }
        }
      }
    }

    scale(count, gate) {
      const values = this.values(count);
      for (let i = 0; i < values.length; i++) values[i] *= gate[i % gate.length];
    }
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));
  const CURVES = {sigmoid, tanh: (x) => 2 * sigmoid(2 * x) - 1};
  // Activations that are lines: of negative values. `multiply` applies them.
  const SLOPES = {none: 1, relu: 0, leaky_relu: 0.2};

  const product = (numbers) => numbers.reduce((a, b) => a * b, 1);

  /** [rows, columns, features] of `source`. */
  function paddedShape(layer) {
    const [height, width, features] = layer.source;
    const border = layer.padding[0] + layer.padding[1];
    return [height + border, width + border, features + layer.labels];
  }

  const sourceSize = (layer) => product(paddedShape(layer));

  // --- Products ---

  /** {backend, heap: Float32Array of at least `size` numbers, multiply}. */
  async function load(size, backend) {
    if (backend !== 'js') {
      try {
        return await loadWasm(size);
      } catch (error) {
        if (backend === 'wasm') throw error;
      }
    }
    const heap = new Float32Array(size);
    return {backend: 'js', heap, multiply: scalarMultiply(heap)};
  }

  async function loadWasm(size) {
    const code = Uint8Array.from(atob(KERNELS), (character) => character.charCodeAt(0));
    const module = await WebAssembly.compile(code);
    const memory = new WebAssembly.Memory({initial: Math.ceil((size * 4) / PAGE)});
    const {exports} = await WebAssembly.instantiate(module, {env: {memory}});
    return {backend: 'wasm', heap: new Float32Array(memory.buffer), multiply: exports.multiply};
  }

  /**
   * One phase of a layer; kernels.c does the same. All are numbers of floats, or indices into the memory.
   * @param count, height, width: images, and pixels of each that are computed
   * @param source: of the first pixel's neighbourhood, and from image to image, row to row, pixel to pixel
   * @param segments: rows of a neighbourhood, `segmentPitch` apart, of `length` neighbouring numbers
   * @param weights: [segments * length, features] in panels of PANEL features, a last one of 4 if those suffice
   * @param bias: [features]
   * @param result: of the first pixel, and from image to image, row to row, pixel to pixel
   * @param slope: factor of negative results
   */
  const scalarMultiply = (heap) => function multiply(
    count, height, width, source, sourceImage, sourceRow, sourcePixel, segments, segmentPitch, length,
    weights, bias, features, result, resultImage, resultRow, resultPixel, slope,
  ) {
    const pixels = count * height * width;
    const offset = (pixel, image, row, step) =>
      Math.floor(pixel / (height * width)) * image + Math.floor(pixel / width) % height * row + pixel % width * step;
    for (let feature = 0; feature < features; feature += 4) {
      const lanes = features - (feature & -PANEL) > 4 ? PANEL : 4;
      const panel = weights + (feature & -PANEL) * segments * length + (feature & (PANEL - 1));
      const valid = Math.min(4, features - feature);
      for (let pixel = 0; pixel < pixels; pixel += 2) {
        const other = Math.min(pixel + 1, pixels - 1);
        let a = source + offset(pixel, sourceImage, sourceRow, sourcePixel);
        let b = source + offset(other, sourceImage, sourceRow, sourcePixel);
        let a0 = heap[bias + feature], a1 = heap[bias + feature + 1];
        let a2 = heap[bias + feature + 2], a3 = heap[bias + feature + 3];
        let b0 = a0, b1 = a1, b2 = a2, b3 = a3;
        let w = panel;
        for (let segment = 0; segment < segments; segment++) {
          for (let i = 0; i < length; i++) {
            const p = heap[a + i], q = heap[b + i];
            const w0 = heap[w], w1 = heap[w + 1], w2 = heap[w + 2], w3 = heap[w + 3];
            a0 += p * w0;
            a1 += p * w1;
            a2 += p * w2;
            a3 += p * w3;
            b0 += q * w0;
            b1 += q * w1;
            b2 += q * w2;
            b3 += q * w3;
            w += lanes;
          }
          a += segmentPitch;
          b += segmentPitch;
        }
        const toA = result + offset(pixel, resultImage, resultRow, resultPixel) + feature;
        const toB = result + offset(other, resultImage, resultRow, resultPixel) + feature;
        const as = [a0, a1, a2, a3], bs = [b0, b1, b2, b3];
        for (let i = 0; i < valid; i++) {
          heap[toA + i] = as[i] < 0 ? slope * as[i] : as[i];
          heap[toB + i] = bs[i] < 0 ? slope * bs[i] : bs[i];
        }
      }
    }
  };

  // --- Numbers ---

  const FLOAT_OF_HALF = Float32Array.from({length: 65536}, (_, bits) => {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    return bits & 0x8000 ? -size : size;
  });

  /** Levels Uint8 of a network's images: the float32 arithmetic and rounding of dcgan_jax/nets/pixels.py. */
  function toPixels(output, range) {
    const level = range === 'tanh'
      ? (x) => Math.fround(Math.fround(x + 1) * 127.5)
      : (x) => Math.fround(x * 255);
    return new Uint8Array(Uint8ClampedArray.from(output, level).buffer); // rounds halves to even
  }

  return {create, toPixels};
})();
