// The mathematics of the latent space, without a page: noise as JAX draws it, sums, walks, and addresses.
// A latent is a Float32Array of zDim numbers.

'use strict';

const Latent = (() => {
  const SQRT2 = Math.sqrt(2);

  // --- Noise: the same numbers as jax.random draws with its default generator, threefry2x32 [Salmon et al. 2011] ---

  const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];

  function threefry(key, x0, x1) {
    const keys = [key[0], key[1], key[0] ^ key[1] ^ 0x1bd11bda];
    x0 = (x0 + keys[0]) | 0;
    x1 = (x1 + keys[1]) | 0;
    for (let round = 0; round < 5; round++) {
      for (const bits of ROTATIONS[round % 2]) {
        x0 = (x0 + x1) | 0;
        x1 = ((x1 << bits) | (x1 >>> (32 - bits))) ^ x0;
      }
      x0 = (x0 + keys[(round + 1) % 3]) | 0;
      x1 = (x1 + keys[(round + 2) % 3] + round + 1) | 0;
    }
    return [x0, x1];
  }

  /** A new key for a whole number below 2^32, as jax.random.fold_in. */
  const foldIn = (key, number) => threefry(key, 0, number);

  /** Number i of a key, float32 in [0, 1): 23 random bits. */
  function unit(key, i) {
    const [high, low] = threefry(key, 0, i);
    return ((high ^ low) >>> 9) / 2 ** 23;
  }

  // Coefficients of XLA's single-precision inverse error function [Giles 2012, table 5], highest power first.
  const CENTRE = [
    2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164,
    0.246640727, 1.50140941,
  ];
  const TAILS = [
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
    1.00167406, 2.83297682,
  ];

  function inverseError(x) {
    const w = -Math.log1p(-x * x);
    const [coefficients, variable] = w < 5 ? [CENTRE, w - 2.5] : [TAILS, Math.sqrt(w) - 3];
    return x * coefficients.reduce((sum, coefficient) => sum * variable + coefficient, 0);
  }

  const LOWEST = Math.fround(-1 + 2 ** -24); // the float32 next to -1, which has no finite normal number

  /** `size` numbers of a key: uniform on [-1, 1), or normal. */
  function draw(key, size, distribution) {
    return Float32Array.from({length: size}, (_, i) => {
      const twice = 2 * unit(key, i);
      return distribution === 'uniform' ? twice - 1 : SQRT2 * inverseError(Math.fround(twice + LOWEST));
    });
  }

  // --- The prior ---

  const deviation = (distribution) => (distribution === 'uniform' ? 1 / Math.sqrt(3) : 1);
  const length = (z) => Math.sqrt(z.reduce((sum, value) => sum + value * value, 0));
  /** Root mean square length of the prior's noise. */
  const typicalLength = (size, distribution) => deviation(distribution) * Math.sqrt(size);

  // --- Sums ---

  const combine = (size, terms) =>
    Float32Array.from({length: size}, (_, i) => terms.reduce((sum, [weight, z]) => sum + weight * z[i], 0));

  /** from at t = 0, to at t = 1, on a straight line. */
  const blend = (from, to, t) => combine(from.length, [[1 - t, from], [t, to]]);

  /** mean(A) - mean(B) + mean(C) [paper section 6.3.2]; an empty list counts as zero. */
  function arithmetic(size, a, b, c) {
    const mean = (sign, list) => list.map((z) => [sign / list.length, z]);
    return combine(size, [...mean(1, a), ...mean(-1, b), ...mean(1, c)]);
  }

  const AROUND = 0.25; // uniform noise of this size around a sum [paper section 6.3.2]

  /** Nine latents for a 3x3 sheet: z in the middle, z with uniform noise around it. */
  function around(z, key) {
    return Array.from({length: 9}, (_, i) => {
      return i === 4 ? z : combine(z.length, [[1, z], [AROUND, draw(foldIn(key, i), z.length, 'uniform')]]);
    });
  }

  // --- Walks ---

  /** A place on the closed way through the points; a whole position is a point. */
  function chain(points, position) {
    const count = points.length;
    const leg = Math.floor(position);
    const at = (i) => points[((i % count) + count) % count];
    return blend(at(leg), at(leg + 1), position - leg);
  }

  const SLOWEST = 0.03;
  const FASTEST = 0.09; // turns a second: a picture has become another after about four seconds

  /** A way without end: every number swings at its own pace. Its mean square is the prior's, so z stays typical. */
  function wave(size, distribution, seconds, key) {
    const paces = draw(foldIn(key, 0), size, 'uniform');
    const phases = draw(foldIn(key, 1), size, 'uniform');
    const reach = SQRT2 * deviation(distribution);
    return Float32Array.from({length: size}, (_, i) => {
      const pace = SLOWEST + ((FASTEST - SLOWEST) * (paces[i] + 1)) / 2;
      return reach * Math.sin(2 * Math.PI * pace * seconds + Math.PI * phases[i]);
    });
  }

  // --- Addresses: what the page shows, as the part behind # ---

  const LARGEST_SEED = 2 ** 31 - 1;
  const MOST_SAMPLES = 9; // a concept

  const numbers = (text, most) =>
    (text || '')
      .split('.')
      .filter((part) => /^\d{1,10}$/.test(part))
      .map(Number)
      .filter((number) => number <= most);

  const clamp = (value, low, high, otherwise) =>
    Number.isFinite(value) ? Math.min(Math.max(value, low), high) : otherwise;

  const round = (value) => Math.round(value * 1000) / 1000;

  /** Four hexadecimal digits a number, which is rounded to 1/4096; up to +-8. */
  const toHex = (z) =>
    Array.from(z, (value) => (Math.round(clamp(value, -7.999, 7.999, 0) * 4096) & 0xffff).toString(16).padStart(4, '0')).join('');
  const fromHex = (text) => Float32Array.from(text.match(/.{4}/g), (part) => ((parseInt(part, 16) << 16) >> 16) / 4096);

  /**
   * The address of a view: {source, moves, label, off, step, tab}. `source` is where z comes from:
   *   {kind: 'seed', seed}, {kind: 'blend', from, to, t}, {kind: 'sum', a, b, c}, {kind: 'walk', points, position},
   *   {kind: 'wave', seconds}, {kind: 'painted', z}.
   */
  function toAddress(view) {
    const parts = new URLSearchParams();
    const {source} = view;
    if (source.kind === 'seed') parts.set('seed', source.seed);
    if (source.kind === 'blend') parts.set('blend', `${source.from}.${source.to}`);
    if (source.kind === 'blend') parts.set('at', round(source.t));
    if (source.kind === 'sum') for (const name of ['a', 'b', 'c']) parts.set(name, source[name].join('.'));
    if (source.kind === 'walk') parts.set('walk', source.points.join('.'));
    if (source.kind === 'walk') parts.set('at', round(source.position));
    if (source.kind === 'wave') parts.set('wave', round(source.seconds));
    if (source.kind === 'painted') parts.set('z', toHex(source.z));
    const moved = Object.entries(view.moves).filter(([, amount]) => amount);
    if (moved.length) parts.set('move', moved.map(([i, amount]) => `${i}:${round(amount)}`).join(','));
    if (view.label !== null) parts.set('class', view.label);
    const dropped = Object.entries(view.off).filter(([, maps]) => maps.size);
    if (dropped.length) parts.set('off', dropped.map(([layer, maps]) => `${layer}:${[...maps].join('.')}`).join(','));
    if (view.step !== null) parts.set('step', view.step);
    parts.set('tab', view.tab);
    return parts.toString().replaceAll('%3A', ':').replaceAll('%2C', ',');
  }

  /** The view of an address; whatever is damaged in it is left out. `size`: numbers of z. */
  function fromAddress(text, size) {
    const parts = new URLSearchParams(text.replace(/^#/, ''));
    const number = (name) => (/^\d{1,10}$/.test(parts.get(name) || '') ? Number(parts.get(name)) : null);
    const at = (high) => clamp(parseFloat(parts.get('at')), 0, high, 0);
    const seeds = (name) => numbers(parts.get(name), LARGEST_SEED);
    const view = {source: null, moves: {}, label: number('class'), off: {}, step: number('step'), tab: parts.get('tab')};
    if (number('seed') !== null) view.source = {kind: 'seed', seed: Math.min(number('seed'), LARGEST_SEED)};
    const [from, to] = seeds('blend');
    if (to !== undefined) view.source = {kind: 'blend', from, to, t: at(1)};
    if (seeds('a').length) {
      const [a, b, c] = ['a', 'b', 'c'].map((name) => seeds(name).slice(0, MOST_SAMPLES));
      view.source = {kind: 'sum', a, b, c};
    }
    if (seeds('walk').length) view.source = {kind: 'walk', points: seeds('walk'), position: at(seeds('walk').length)};
    if (parts.has('wave')) view.source = {kind: 'wave', seconds: clamp(parseFloat(parts.get('wave')), 0, 1e6, 0)};
    const hex = parts.get('z') || '';
    if (hex.length === 4 * size && /^[0-9a-f]*$/.test(hex)) view.source = {kind: 'painted', z: fromHex(hex)};
    for (const part of (parts.get('move') || '').split(',')) {
      const [, i, amount] = part.match(/^(\d{1,4}):(-?[\d.]+)$/) || [];
      if (i !== undefined) view.moves[i] = clamp(parseFloat(amount), -8, 8, 0);
    }
    for (const part of (parts.get('off') || '').split(',')) {
      const [, layer, maps] = part.match(/^(\w+):([\d.]+)$/) || [];
      if (layer !== undefined) view.off[layer] = new Set(numbers(maps, 1e5));
    }
    return view;
  }

  return {
    AROUND, LARGEST_SEED, MOST_SAMPLES, foldIn, draw, deviation, length, typicalLength, combine, blend, arithmetic,
    around, chain, wave, toAddress, fromAddress,
  };
})();
