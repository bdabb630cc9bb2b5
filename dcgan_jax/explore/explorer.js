// The page: its view (what is shown, and shared in the address), the tools that change it, and the drawing.
// engine.js runs the networks; latent.js is the mathematics.

'use strict';

(() => {
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const run = JSON.parse(byId('run').textContent);
  const ABOUT = 48; // samples on the sheet, in full rows
  const BUDGET = 24; // milliseconds of drawing between two frames of the screen

  // What is shown; see Latent.toAddress. `label`: null draws class (seed mod classes), as the run's own samples.
  const view = {source: {kind: 'seed', seed: 0}, moves: {}, label: null, off: {}, step: null, tab: 'look'};
  // What is not shared.
  const state = {
    playing: false, pace: 1, picked: 0, slot: 'to', tray: 'a', around: 0, comparing: false, first: 0, film: false,
    columns: 1, count: ABOUT, from: 0, to: 1, sums: {a: [], b: [], c: []}, through: false, points: [], unpainted: null,
  };
  let weights = null;
  let discriminator = null;
  const generators = new Map(); // by step

  // --- Elements -----------------------------------------------------------------------------------------------------

  /** An element with properties; names with a dash, role and style are attributes. */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes('-') || name === 'role' || name === 'style') element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children);
    return element;
  }

  function press(element, pressed) {
    element.setAttribute('aria-pressed', String(pressed));
  }

  /** Chooses one of several pressed buttons. */
  const pressOne = (buttons, chosen) => buttons.forEach((button) => press(button, button === chosen));

  function complain(text) {
    byId('loading').hidden = true;
    byId('problem').textContent = text;
    byId('problem').hidden = false;
  }

  // --- Latents ------------------------------------------------------------------------------------------------------

  const noiseOf = (seed) => Latent.draw(Latent.foldIn(run.key, seed), run.zDim, run.distribution);
  const key = (number) => Latent.foldIn(run.key, 0xffffffff - number); // of no sample: their seeds are smaller

  /** z of a source, without the directions added. */
  function latentOf(source) {
    const several = (seeds) => seeds.map(noiseOf);
    switch (source.kind) {
      case 'seed': return noiseOf(source.seed);
      case 'blend': return Latent.blend(noiseOf(source.from), noiseOf(source.to), source.t);
      case 'sum': return Latent.arithmetic(run.zDim, several(source.a), several(source.b), several(source.c));
      case 'walk': return Latent.chain(several(source.points), source.position);
      case 'wave': return Latent.wave(run.zDim, run.distribution, source.seconds, key(0));
      default: return source.z;
    }
  }

  /** z of the view. */
  function latent() {
    const moves = Object.entries(view.moves).map(([i, amount]) => {
      return [amount * Latent.deviation(run.distribution), run.directions[i].vector];
    });
    return Latent.combine(run.zDim, [[1, latentOf(view.source)], ...moves]);
  }

  const labelOf = (seed) => (view.label === null ? seed % Math.max(run.classes, 1) : view.label);

  /** The class of the view: of its nearest seed where classes follow seeds. */
  function label() {
    const {source} = view;
    const nearest = {
      seed: () => source.seed,
      blend: () => (source.t < 0.5 ? source.from : source.to),
      sum: () => source.a[0],
      walk: () => source.points[Math.round(source.position) % source.points.length],
      wave: () => Math.floor(source.seconds / 4),
    }[source.kind];
    return labelOf(nearest ? nearest() : state.picked);
  }

  const className = (number) => run.classNames[number];

  const capital = (text) => text[0].toUpperCase() + text.slice(1);

  /** In words. */
  function describe() {
    const {source} = view;
    const list = (seeds) => (seeds.length > 1 ? `mean of ${seeds.join(', ')}` : `seed ${seeds[0]}`);
    const sum = (a, b, c) => `${list(a)}${b.length ? ` − ${list(b)}` : ''}${c.length ? ` + ${list(c)}` : ''}`;
    const text = {
      seed: () => `Seed ${source.seed}`,
      blend: () => `${percent(1 - source.t)} seed ${source.from}, ${percent(source.t)} seed ${source.to}`,
      sum: () => capital(sum(source.a, source.b, source.c)),
      walk: () => `Walk through ${source.points.length} samples`,
      wave: () => 'Endless walk',
      painted: () => 'Painted noise',
    }[source.kind]();
    const moved = Object.values(view.moves).filter(Boolean).length;
    const off = Object.values(view.off).reduce((sum, maps) => sum + maps.size, 0);
    return [
      text,
      moved ? 'moved' : '',
      run.classes ? className(label()) : '',
      off ? `${off} ${off > 1 ? 'maps' : 'map'} off` : '',
      view.step !== null && view.step !== run.step ? `step ${view.step.toLocaleString('en')}` : '',
    ].filter(Boolean).join(' · ');
  }

  // --- Drawing ------------------------------------------------------------------------------------------------------

  const part = ({offset, bytes}) => weights.slice(offset, offset + bytes);

  /** The generator of the chosen step; made when it is first needed. */
  function generator() {
    return generators.get(view.step ?? run.step) || generators.get(run.step);
  }

  /** Switches to the generator of a step. */
  async function chooseStep(step) {
    const entry = run.generators.find((one) => one.step === step) || run.generators[run.generators.length - 1];
    if (!generators.has(entry.step)) {
      generators.set(entry.step, await DcganEngine.create(entry.spec, part(entry), {backend: 'auto'}));
    }
    view.step = entry.step === run.step ? null : entry.step;
    changed(true);
  }

  function gates() {
    const found = {};
    if (state.comparing) return found;
    for (const {name, features} of run.layers) {
      const off = view.off[name];
      if (off && off.size) found[name] = Float32Array.from({length: features}, (_, i) => (off.has(i) ? 0 : 1));
    }
    return found;
  }

  const times = []; // milliseconds an image, of the newest runs

  /** Pixels uint8 of latents, one image after the other, and the maps of `taps`. */
  function generate(latents, labels, taps = []) {
    const input = new Float32Array(latents.length * run.zDim);
    latents.forEach((z, i) => input.set(z, i * run.zDim));
    const begin = performance.now();
    const result = generator().run(input, {labels: run.classes ? Int32Array.from(labels) : undefined, gates: gates(), taps});
    times.push((performance.now() - begin) / latents.length);
    if (times.length > 60) times.shift();
    return {pixels: DcganEngine.toPixels(result.output, run.output), taps: result.taps};
  }

  /** Logits of images. */
  function judge(pixels, labels) {
    const input = Float32Array.from(pixels, (level) => (run.output === 'tanh' ? level / 127.5 - 1 : level / 255));
    return discriminator.run(input, {labels: run.classes ? Int32Array.from(labels) : undefined}).output;
  }

  const area = run.height * run.width * run.channels;

  /** One pixel of the canvas for each of an image. */
  const setResolution = (canvas) => Object.assign(canvas, {width: run.width, height: run.height});

  /** How large an image is shown; `scale` in pixels of the screen. */
  const setScale = ({style}, scale) => Object.assign(style, {width: `${run.width * scale}px`, height: `${run.height * scale}px`});

  function show(canvas, pixels) {
    const image = new ImageData(run.width, run.height);
    for (let i = 0, from = 0; i < image.data.length; i += 4) {
      for (let c = 0; c < 3; c++) image.data[i + c] = pixels[from + (run.channels === 3 ? c : 0)];
      image.data[i + 3] = 255;
      from += run.channels;
    }
    setResolution(canvas);
    canvas.getContext('2d').putImageData(image, 0, 0);
  }

  /** Makes a canvas show an image, when there is time. `what`: {z, label} as functions. */
  function picture(canvas, what, scale) {
    canvas.classList.add('sample');
    setScale(canvas, scale);
    Object.assign(canvas, {what, stale: true});
    wake();
    return canvas;
  }

  const sampleOf = (seed) => ({z: () => noiseOf(seed), label: () => labelOf(seed)});

  let stageStale = true;
  let frame = 0;
  let before = 0;

  function wake() {
    frame = frame || requestAnimationFrame(tick);
  }

  function tick(now) {
    frame = 0;
    if (!generator()) return;
    if (state.playing) step(Math.min((now - before) / 1000, 0.1));
    before = now;
    const end = performance.now() + BUDGET;
    if (stageStale) drawStage();
    const fitting = () => Math.max(1, Math.floor((end - performance.now()) / pace()));
    while (drawSome(fitting()) && performance.now() < end) {} // some in any case, however slow the network is
    byId('speed').textContent = speed();
    if (state.playing || state.film || stageStale || stalest(1).length) wake();
  }

  const pace = () => [...times].sort((a, b) => a - b)[times.length >> 1] || 10;

  const BACKENDS = {wasm: 'WebAssembly', js: 'JavaScript'};

  function speed() {
    const each = pace();
    const rate = 1000 / each;
    const digits = (value) => value.toFixed(value < 10 ? 1 : 0);
    return `${digits(each)} ms an image (${digits(rate)}/s) · ${BACKENDS[generator().backend]}`;
  }

  function drawStage() {
    stageStale = false;
    const layer = view.tab === 'maps' ? [byId('layer').value] : [];
    const {pixels, taps} = generate([latent()], [label()], layer);
    show(byId('image'), pixels);
    byId('image').setAttribute('aria-label', `Generated image: ${describe()}`);
    byId('what').textContent = describe();
    if (layer.length) drawMaps(taps[layer[0]]);
    if (view.tab === 'paint') drawCells();
    if (!discriminator) return;
    const logit = judge(pixels, [label()])[0];
    byId('share').style.width = `${100 * probability(logit)}%`;
    all('output', byId('opinion'))[0].textContent = `Discriminator: ${opinion(logit)}`;
  }

  const probability = (logit) => 1 / (1 + Math.exp(-logit));
  const signed = (value, digits) => `${value < 0 ? '−' : '+'}${Math.abs(value).toFixed(digits)}`;
  const percent = (share) => `${Math.round(100 * share)}\u00a0%`;
  /** A discriminator that was trained to tell odds says a probability; others only more or less. */
  const opinion = (logit) => (run.odds ? `${percent(probability(logit))} real (${signed(logit, 1)})` : signed(logit, 2));

  /** Pictures that wait, those in sight first. */
  function stalest(most) {
    return all('canvas.sample').filter((canvas) => canvas.stale && canvas.what && canvas.offsetParent).slice(0, most);
  }

  /** Draws up to `most` pictures; whether there were any. */
  function drawSome(most) {
    const canvases = stalest(Math.min(most, 16));
    if (!canvases.length) return false;
    const labels = canvases.map((canvas) => canvas.what.label());
    const {pixels} = generate(canvases.map((canvas) => canvas.what.z()), labels);
    const judged = canvases.some((canvas) => canvas.says) ? judge(pixels, labels) : null;
    canvases.forEach((canvas, i) => {
      canvas.stale = false;
      show(canvas, pixels.subarray(i * area, (i + 1) * area));
      if (canvas.says) canvas.says(judged[i]);
    });
    return true;
  }

  /** After a change of the view. `everything`: the other pictures change, too. */
  function changed(everything = false) {
    stageStale = true;
    if (everything) all('canvas.sample').forEach((canvas) => (canvas.stale = true));
    rememberSoon();
    wake();
  }

  let timer = 0;

  /** Writes the view into the address, unless it goes on changing. */
  function rememberSoon() {
    clearTimeout(timer);
    timer = setTimeout(() => state.playing || remember(), 200);
  }

  const remember = () => history.replaceState(null, '', `#${Latent.toAddress(view)}`);

  // --- Playing ------------------------------------------------------------------------------------------------------

  /** The walk goes on by some seconds. */
  function step(seconds) {
    const {source} = view;
    if (source.kind === 'wave') source.seconds += seconds * state.pace;
    else if (source.kind === 'walk') source.position = (source.position + 0.5 * seconds * state.pace) % source.points.length;
    stageStale = true;
  }

  function play(playing) {
    if (playing && !['wave', 'walk'].includes(view.source.kind)) {
      const through = state.through && state.points.length > 1;
      view.source = through ? {kind: 'walk', points: state.points, position: 0} : {kind: 'wave', seconds: 0};
      markPicked();
    }
    state.playing = playing;
    press(byId('play'), playing);
    byId('play').textContent = playing ? 'Pause' : 'Play';
    changed();
  }

  function setSource(source) {
    view.source = source;
    if (state.playing) play(false);
    changed();
    markPicked();
  }

  // --- Samples ------------------------------------------------------------------------------------------------------

  /** A small picture of a seed that is a button. */
  function tile(seed, scale, properties = {}) {
    const canvas = picture(make('canvas'), sampleOf(seed), scale);
    const button = make('button', {className: 'tile', type: 'button', 'aria-label': `Sample ${seed}`, ...properties}, canvas);
    button.dataset.seed = seed;
    return button;
  }

  /** A small picture of a seed in a list; a click takes it out. */
  const removable = (seed, remove, list) =>
    tile(seed, SMALL, {title: `Remove sample ${seed}`, 'aria-label': `Remove sample ${seed} from ${list}`, onclick: remove});

  const GAP = 8; // pixels between samples

  const tileWidth = () => Math.max(run.width * Number(byId('zoom').value), 30);
  const columnsThatFit = () => Math.max(1, Math.floor((byId('sheet').clientWidth + GAP) / (tileWidth() + GAP)));

  function fillSheet() {
    const zoom = Number(byId('zoom').value);
    const sheet = byId('sheet');
    state.columns = columnsThatFit();
    state.count = state.columns * Math.max(1, Math.round(ABOUT / state.columns));
    sheet.style.gridTemplateColumns = `repeat(${state.columns}, ${tileWidth()}px)`;
    byId('first').value = state.first;
    sheet.replaceChildren(
      ...Array.from({length: state.count}, (_, i) => state.first + i)
        .filter((seed) => seed <= Latent.LARGEST_SEED)
        .map((seed, i) => {
          const text = make('span', {textContent: seed});
          const button = tile(seed, zoom, {tabIndex: i ? -1 : 0, 'aria-pressed': 'false'});
          button.append(text);
          button.dataset.drop = 'sample';
          if (discriminator && byId('opinions').checked) {
            button.firstChild.says = (logit) => {
              const short = run.odds ? percent(probability(logit)) : signed(logit, 1);
              text.textContent = `${seed} · ${short}`;
              button.setAttribute('aria-label', `Sample ${seed}, discriminator: ${opinion(logit)}`);
            };
          }
          return button;
        }),
    );
    markPicked();
  }

  function markPicked() {
    const {source} = view;
    const shown = {
      seed: () => [source.seed], blend: () => [source.from, source.to], sum: () => [...source.a, ...source.b, ...source.c],
      walk: () => source.points,
    }[source.kind];
    const seeds = shown ? shown() : [];
    all('#sheet .tile').forEach((button) => press(button, seeds.includes(Number(button.dataset.seed))));
  }

  /** What a click on a sample does depends on the tool. */
  function pick(seed) {
    if (view.tab === 'blend') put(state.slot, seed);
    else if (view.tab === 'sum') put(state.tray, seed);
    else if (view.tab === 'walk' && state.through) put('path', seed);
    else setSource({kind: 'seed', seed});
    state.picked = seed;
  }

  /** Puts a sample on a slot, a tray or the path. */
  function put(where, seed) {
    if (where === 'from' || where === 'to') {
      const t = view.source.kind === 'blend' ? view.source.t : 0.5;
      blend(where === 'from' ? seed : state.from, where === 'to' ? seed : state.to, t);
      chooseSlot('to');
    } else if (where === 'path') {
      setPath([...state.points.filter((other) => other !== seed), seed]);
    } else {
      setTray(where, [...state.sums[where].filter((other) => other !== seed), seed].slice(-Latent.MOST_SAMPLES));
    }
  }

  function blendWith(from, to) {
    if (view.tab !== 'blend') chooseTab('blend');
    blend(from, to, 0.5);
  }

  const HINTS = {
    blend: () => `A click fills “${state.slot === 'from' ? 'From' : 'To'}”.`,
    sum: () => `A click puts a sample on tray ${state.tray.toUpperCase()}.`,
    walk: () => (state.through ? 'A click adds a sample to the walk.' : 'Click one to show it.'),
  };

  function showHint() {
    byId('hint').textContent = (HINTS[view.tab] || (() => 'Click one to show it; drag one onto another to blend them.'))();
  }

  // --- Blend --------------------------------------------------------------------------------------------------------

  const SMALL = Math.max(1, Math.round(48 / run.height)); // scale of small pictures
  const MOST_STOPS = 11;

  function chooseSlot(slot) {
    state.slot = slot;
    press(byId('from'), slot === 'from');
    press(byId('to'), slot === 'to');
    showHint();
  }

  function blend(from, to, t) {
    Object.assign(state, {from, to});
    showBlend(t);
    setSource({kind: 'blend', from, to, t});
  }

  function showBlend(t) {
    const {from, to} = state;
    for (const [id, name, seed] of [['from', 'From', from], ['to', 'To', to]]) {
      picture(byId(id).querySelector('canvas'), sampleOf(seed), SMALL);
      byId(id).setAttribute('aria-label', `${name}: sample ${seed}. The next click on a sample fills this.`);
      byId(id).querySelector('span').textContent = `${name}: ${seed}`;
    }
    const stops = Math.min(Math.floor(byId('tools').clientWidth / (run.width * SMALL + 4)), MOST_STOPS);
    byId('between').replaceChildren(
      ...Array.from({length: stops}, (_, i) => {
        const at = i / (stops - 1);
        const what = {z: () => latentOf({kind: 'blend', from, to, t: at}), label: () => labelOf(at < 0.5 ? from : to)};
        return picture(make('canvas'), what, SMALL);
      }),
    );
    byId('t').value = t;
  }

  // --- Arithmetic ---------------------------------------------------------------------------------------------------

  function setTray(name, seeds) {
    state.sums[name] = seeds;
    showSum();
    const {a, b, c} = state.sums;
    if (a.length) setSource({kind: 'sum', a, b, c});
  }

  function showSum() {
    for (const [name, seeds] of Object.entries(state.sums)) {
      const remove = (seed) => () => setTray(name, seeds.filter((other) => other !== seed));
      byId(name).replaceChildren(...seeds.map((seed) => removable(seed, remove(seed), `tray ${name.toUpperCase()}`)));
    }
    const {a} = state.sums;
    const nine = a.length ? Latent.around(latentOf({kind: 'sum', ...state.sums}), key(1 + state.around)) : Array(9).fill(null);
    const what = (z) => z && {z: () => z, label: () => labelOf(a[0])};
    byId('around').replaceChildren(...nine.map((z) => picture(make('canvas'), what(z), SMALL)));
  }

  function chooseTray(tray) {
    state.tray = tray;
    pressOne(all('[data-tray]'), byId('tools').querySelector(`[data-tray=${tray}]`));
    showHint();
  }

  // --- Walk ---------------------------------------------------------------------------------------------------------

  function showWay() {
    const {through} = state;
    press(byId('through'), through);
    press(byId('endless'), !through);
    byId('path').hidden = !through;
    byId('way').textContent = through
      ? `The walk goes in straight lines through the samples you pick, and back to the first. ${
        state.points.length > 1 ? '' : 'Pick two or more below.'}`
      : 'Every number of the noise swings as a sine at its own pace. The noise keeps its usual length, and the walk never repeats.';
    showHint();
  }

  function setPath(points) {
    state.points = points;
    showPath();
    walk();
  }

  function showPath() {
    const remove = (seed) => () => setPath(state.points.filter((other) => other !== seed));
    byId('path').replaceChildren(...state.points.map((seed) => removable(seed, remove(seed), 'the walk')));
    showWay();
  }

  /** Goes on through the picked samples; with a single one, stands on it. */
  function walk() {
    const {points} = state;
    if (points.length > 1) {
      const position = view.source.kind === 'walk' ? view.source.position % points.length : 0;
      setSource({kind: 'walk', points, position});
      play(true);
    } else if (points.length) setSource({kind: 'seed', seed: points[0]});
  }

  // --- Directions ---------------------------------------------------------------------------------------------------

  function makeMoves() {
    byId('moves-text').textContent = run.directions.length
      ? 'Each slider adds a direction to the noise of the image; one is one standard deviation of the noise along it.'
      : 'This run has no directions.';
    let group = null;
    run.directions.forEach((direction, i) => {
      if (direction.group !== group) byId('moves').append(make('h3', {textContent: (group = direction.group)}));
      const value = make('output');
      const slider = make('input', {type: 'range', min: -4, max: 4, step: 0.05, value: 0});
      slider.dataset.move = i;
      slider.oninput = () => {
        view.moves[i] = Number(slider.value);
        if (state.playing && view.source.kind !== 'wave' && view.source.kind !== 'walk') play(false);
        showMoves();
        changed();
      };
      slider.ondblclick = () => {
        slider.value = 0;
        slider.oninput();
      };
      byId('moves').append(make('label', {className: 'slider'}, make('span', {textContent: direction.name, title: direction.name}), slider, value));
    });
  }

  function showMoves() {
    all('[data-move]').forEach((slider) => {
      const amount = view.moves[slider.dataset.move] || 0;
      slider.value = amount;
      slider.nextSibling.textContent = amount ? signed(amount, 1) : '0';
    });
  }

  // --- Noise --------------------------------------------------------------------------------------------------------

  const REACH = run.distribution === 'uniform' ? 1 : 2.5; // of the brush, and of the colours
  const COLUMNS = Math.ceil(Math.sqrt(run.zDim));

  function makeCells() {
    const grid = byId('cells');
    grid.style.gridTemplateColumns = `repeat(${COLUMNS}, 1fr)`;
    for (let begin = 0; begin < run.zDim; begin += COLUMNS) {
      const row = make('div', {role: 'row'});
      for (let i = begin; i < Math.min(begin + COLUMNS, run.zDim); i++) {
        row.append(make('div', {role: 'gridcell', className: 'cell', tabIndex: i ? -1 : 0, 'aria-label': `Number ${i + 1}`}));
        row.lastChild.dataset.cell = i;
      }
      grid.append(row);
    }
    Object.assign(byId('brush'), {min: -REACH, max: REACH, value: REACH});
    const typical = Latent.typicalLength(run.zDim, run.distribution);
    Object.assign(byId('length'), {max: 2 * typical, low: 0.85 * typical, high: 1.15 * typical, optimum: typical});
  }

  function drawCells() {
    const z = latent();
    all('.cell').forEach((cell, i) => {
      const share = Math.min(Math.abs(z[i]) / REACH, 1);
      cell.style.background = `color-mix(in oklab, var(--${z[i] < 0 ? 'cold' : 'accent'}) ${Math.round(100 * share)}%, var(--line))`;
      cell.setAttribute('aria-label', `Number ${i + 1}: ${signed(z[i], 2)}`);
    });
    const relative = Latent.length(z) / Latent.typicalLength(run.zDim, run.distribution);
    byId('length').value = Latent.length(z);
    byId('length-text').textContent = percent(relative);
    byId('length').title = `${percent(relative)} of the usual length of the noise`;
  }

  /** Changes numbers of z; what was added by the directions stays in them. */
  function paint(change) {
    const z = latent();
    if (view.source.kind !== 'painted') state.unpainted = view.source;
    change(z);
    view.moves = {};
    showMoves();
    setSource({kind: 'painted', z});
  }

  function listenToCells() {
    const grid = byId('cells');
    const stroke = (event) => {
      const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest('.cell');
      if (cell) paint((z) => (z[cell.dataset.cell] = Number(byId('brush').value)));
    };
    grid.onpointerdown = (event) => {
      grid.setPointerCapture(event.pointerId);
      stroke(event);
    };
    grid.onpointermove = (event) => event.buttons && stroke(event);
    grid.onkeydown = (event) => {
      const cell = event.target.closest('.cell');
      const i = Number(cell.dataset.cell);
      const change = {'+': 0.1, '=': 0.1, '-': -0.1, '0': 0}[event.key];
      if (change !== undefined) {
        paint((z) => (z[i] = change ? Math.min(Math.max(z[i] + change * REACH, -REACH), REACH) : 0));
        event.preventDefault();
      } else rove(event, all('.cell'), cell, COLUMNS);
    };
  }

  // --- Maps ---------------------------------------------------------------------------------------------------------

  function makeLayers() {
    byId('layer').append(
      ...run.layers.map(({name, features, height, width}) => {
        return make('option', {value: name, textContent: `${name}: ${features} maps of ${width}×${height}`});
      }),
    );
    const marked = run.layers.find(({name}) => (run.marked[name] || []).length);
    byId('layer').value = (marked || run.layers[Math.floor(run.layers.length / 2)] || {}).name;
  }

  function makeMaps() {
    const {name, features, width, height} = run.layers.find((layer) => layer.name === byId('layer').value);
    const marked = run.marked[name] || [];
    const scale = Math.max(1, Math.round(40 / width));
    byId('maps').replaceChildren(
      ...Array.from({length: features}, (_, i) => {
        const canvas = make('canvas', {width, height, style: `width: ${scale * width}px; height: ${scale * height}px`});
        const button = make('button', {className: 'map', type: 'button', tabIndex: i ? -1 : 0}, canvas);
        if (marked.includes(i)) button.classList.add('marked');
        button.dataset.map = i;
        return button;
      }),
    );
    byId('drop-marked').hidden = !marked.length;
    byId('drop-marked').textContent = `Switch off the ${marked.length} that draw windows`;
    showOff();
  }

  function showOff() {
    const layer = byId('layer').value;
    const off = view.off[layer] || new Set();
    const marked = run.marked[layer] || [];
    all('.map').forEach((button, i) => {
      press(button, !off.has(i));
      button.setAttribute('aria-label', `Map ${i}${marked.includes(i) ? ', draws windows' : ''}`);
      button.title = `Map ${i}`;
    });
    const total = all('.map').length;
    byId('off').textContent = `${off.size} of ${total} off`;
  }

  /** Small pictures of the maps, float32 [1, height, width, maps]. */
  function drawMaps(values) {
    const largest = values.reduce((most, value) => Math.max(most, value), 1e-6);
    const canvases = all('.map canvas');
    canvases.forEach((canvas, map) => {
      const image = new ImageData(canvas.width, canvas.height);
      for (let i = 0; i < canvas.width * canvas.height; i++) {
        image.data.fill(255 * Math.sqrt(Math.max(values[i * canvases.length + map], 0) / largest), 4 * i, 4 * i + 3);
        image.data[4 * i + 3] = 255;
      }
      canvas.getContext('2d').putImageData(image, 0, 0);
    });
  }

  function switchMaps(maps, off) {
    const layer = byId('layer').value;
    view.off[layer] = view.off[layer] || new Set();
    maps.forEach((map) => (off ? view.off[layer].add(map) : view.off[layer].delete(map)));
    compare(false);
    showOff();
    changed(true);
  }

  function compare(comparing) {
    state.comparing = comparing;
    press(byId('compare'), comparing);
    changed(true);
  }

  // --- Training -----------------------------------------------------------------------------------------------------

  const films = run.frames.length ? run.frames : run.generators;

  function makeFilm() {
    byId('film').hidden = films.length < 2;
    byId('step').max = films.length - 1;
    byId('film-text').textContent = films.length < 2
      ? 'The run has kept no other checkpoint. Train with --config.keep_every to see how the network learned.'
      : run.frames.length
        ? 'The first samples at every checkpoint that the run has kept, drawn in advance.'
        : 'The slider changes the network: everything on this page is drawn by the checkpoint of that step.';
  }

  async function showFilm(i) {
    byId('step').value = i;
    byId('step-text').textContent = films[i].step.toLocaleString('en');
    if (run.frames.length) {
      const sheet = make('img', {src: films[i].image, alt: `Samples at step ${films[i].step}`});
      await sheet.decode();
      sheet.width = sheet.naturalWidth * Math.max(1, Math.floor(Math.min(byId('tools').clientWidth, 520) / sheet.naturalWidth));
      byId('frame').replaceChildren(sheet);
    } else await chooseStep(films[i].step);
  }

  async function playFilm(playing) {
    state.film = playing;
    press(byId('play-film'), playing);
    byId('play-film').textContent = playing ? 'Pause' : 'Play';
    while (state.film && view.tab === 'film') {
      await showFilm((Number(byId('step').value) + 1) % films.length);
      await new Promise((resolve) => setTimeout(resolve, run.frames.length ? 500 : 1200));
    }
  }

  // --- Tabs, keys, dragging -----------------------------------------------------------------------------------------

  function chooseTab(name) {
    const tabs = all('[role=tab]');
    const chosen = tabs.find((tab) => tab.dataset.tab === name) || tabs[0];
    view.tab = chosen.dataset.tab;
    tabs.forEach((tab) => {
      tab.setAttribute('aria-selected', String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    });
    all('[role=tabpanel]').forEach((panel) => (panel.hidden = panel.dataset.tab !== view.tab));
    chosen.scrollIntoView({block: 'nearest', inline: 'nearest'});
    if (view.tab !== 'film' && state.film) playFilm(false);
    showHint();
    changed();
  }

  /** Moves the focus among elements with the arrow keys, Home and End; whether the key was one of them. */
  function rove(event, elements, current, columns) {
    const i = elements.indexOf(current);
    const next = {
      ArrowLeft: i - 1, ArrowRight: i + 1, ArrowUp: i - columns, ArrowDown: i + columns, Home: 0, End: elements.length - 1,
    }[event.key];
    if (next === undefined) return false;
    event.preventDefault();
    if (!elements[next]) return true;
    current.tabIndex = -1;
    elements[next].tabIndex = 0;
    elements[next].focus();
    return true;
  }

  /** Elements in the first row of a wrapped list. */
  const columnsOf = (elements) => elements.filter((element) => element.offsetTop === elements[0].offsetTop).length;

  function listenToSheet() {
    const sheet = byId('sheet');
    sheet.onclick = (event) => {
      const button = event.target.closest('.tile');
      if (button) pick(Number(button.dataset.seed));
    };
    sheet.onkeydown = (event) => {
      const button = event.target.closest('.tile');
      if (!button || event.ctrlKey || event.metaKey || event.altKey) return;
      const tiles = all('.tile', sheet);
      if (rove(event, tiles, button, state.columns)) return;
      const seed = Number(button.dataset.seed);
      const letter = event.key.toLowerCase();
      if (letter === 'x') blendWith(state.picked, seed);
      else if ('abc'.includes(letter)) {
        if (view.tab !== 'sum') chooseTab('sum');
        chooseTray(letter);
        put(letter, seed);
      } else if (letter === 'w') {
        state.through = true;
        if (view.tab !== 'walk') chooseTab('walk');
        put('path', seed);
      } else return;
      state.picked = seed;
    };
  }

  const FAR = 8; // pixels: what moves less is a click
  const LONG = 300; // milliseconds: a finger that stays so long drags, another scrolls

  /** Drags samples onto whatever has data-drop. */
  function listenToDrags() {
    let drag = null;

    const begin = () => {
      drag.ghost = make('canvas', {id: 'ghost'});
      const canvas = drag.tile.querySelector('canvas');
      setResolution(drag.ghost);
      drag.ghost.style.width = canvas.style.width;
      drag.ghost.getContext('2d').drawImage(canvas, 0, 0);
      document.body.append(drag.ghost);
      follow(drag.x, drag.y);
    };
    const under = (x, y) => {
      const target = document.elementFromPoint(x, y)?.closest('[data-drop]');
      return target && target !== drag.tile ? target : null;
    };
    const follow = (x, y) => {
      const {width, height} = drag.ghost.getBoundingClientRect();
      Object.assign(drag.ghost.style, {left: `${x - width / 2}px`, top: `${y - height / 2}px`});
      all('.target').forEach((element) => element.classList.remove('target'));
      under(x, y)?.classList.add('target');
    };
    const end = () => {
      clearTimeout(drag.timer);
      drag.ghost?.remove();
      all('.target').forEach((element) => element.classList.remove('target'));
      drag = null;
    };

    document.addEventListener('pointerdown', (event) => {
      const dragged = event.target.closest('#sheet .tile');
      if (!dragged || event.button || drag) return;
      drag = {tile: dragged, x: event.clientX, y: event.clientY, id: event.pointerId, touch: event.pointerType === 'touch'};
      if (drag.touch) drag.timer = setTimeout(begin, LONG);
    });
    document.addEventListener('pointermove', (event) => {
      if (!drag || event.pointerId !== drag.id) return;
      const far = Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > FAR;
      if (!drag.ghost && far) {
        if (drag.touch) return end();
        begin();
      }
      if (drag.ghost) follow(event.clientX, event.clientY);
    });
    document.addEventListener('pointerup', (event) => {
      if (!drag || event.pointerId !== drag.id) return;
      const target = drag.ghost && under(event.clientX, event.clientY);
      const seed = Number(drag.tile.dataset.seed);
      end();
      if (!target) return;
      state.picked = seed;
      if (target.dataset.drop === 'sample') blendWith(seed, Number(target.dataset.seed));
      else put(target.dataset.drop, seed);
    });
    document.addEventListener('pointercancel', () => drag && end());
    document.addEventListener('touchmove', (event) => drag?.ghost && event.preventDefault(), {passive: false});
    document.addEventListener('contextmenu', (event) => drag?.touch && event.preventDefault());
    document.addEventListener('keydown', (event) => event.key === 'Escape' && drag && end());
  }

  function listen() {
    byId('play').onclick = () => play(!state.playing);
    byId('random').onclick = () => setSource({kind: 'seed', seed: (state.picked = Math.floor(Math.random() * 1e6))});
    byId('save').onclick = save;
    byId('share-view').onclick = copyLink;
    document.addEventListener('keydown', (event) => {
      if (event.key === ' ' && event.target === document.body) {
        event.preventDefault();
        play(!state.playing);
      }
    });

    const tabs = all('[role=tab]');
    tabs.forEach((tab) => {
      const panel = all('[role=tabpanel]').find((one) => one.dataset.tab === tab.dataset.tab);
      tab.id = `tab-${tab.dataset.tab}`;
      panel.id = `panel-${tab.dataset.tab}`;
      tab.setAttribute('aria-controls', panel.id);
      panel.setAttribute('aria-labelledby', tab.id);
      tab.onclick = () => chooseTab(tab.dataset.tab);
      tab.onkeydown = (event) => rove(event, tabs, tab, tabs.length) && chooseTab(document.activeElement.dataset.tab);
    });

    byId('from').onclick = () => chooseSlot('from');
    byId('to').onclick = () => chooseSlot('to');
    byId('t').oninput = () => blend(state.from, state.to, Number(byId('t').value));

    all('[data-tray]').forEach((button) => (button.onclick = () => chooseTray(button.dataset.tray)));
    byId('other-noise').onclick = () => {
      state.around += 1;
      showSum();
    };
    byId('clear-sum').onclick = () => {
      state.sums = {a: [], b: [], c: []};
      chooseTray('a');
      showSum();
    };

    byId('endless').onclick = () => {
      state.through = false;
      showWay();
      if (view.source.kind !== 'wave') setSource({kind: 'wave', seconds: 0});
      play(true);
    };
    byId('through').onclick = () => {
      state.through = true;
      showWay();
      walk();
    };
    byId('pace').oninput = () => (state.pace = Number(byId('pace').value));

    byId('reset-moves').onclick = () => {
      view.moves = {};
      showMoves();
      changed();
    };
    byId('typical').onclick = () => paint((z) => {
      const factor = Latent.typicalLength(run.zDim, run.distribution) / Math.max(Latent.length(z), 1e-6);
      z.forEach((value, i) => (z[i] = factor * value));
    });
    byId('unpaint').onclick = () => setSource(state.unpainted || {kind: 'seed', seed: state.picked});

    byId('layer').onchange = () => {
      makeMaps();
      changed();
    };
    byId('maps').onclick = (event) => {
      const button = event.target.closest('.map');
      if (button) switchMaps([Number(button.dataset.map)], button.getAttribute('aria-pressed') === 'true');
    };
    byId('maps').onkeydown = (event) => {
      const maps = all('.map');
      if (event.target.closest('.map')) rove(event, maps, event.target, columnsOf(maps));
    };
    byId('drop-marked').onclick = () => switchMaps(run.marked[byId('layer').value], true);
    byId('all-maps').onclick = () => {
      view.off = {};
      compare(false);
      showOff();
    };
    byId('compare').onclick = () => compare(!state.comparing);

    byId('step').oninput = () => showFilm(Number(byId('step').value));
    byId('play-film').onclick = () => playFilm(!state.film);

    byId('zoom').onchange = byId('opinions').onchange = fillSheet;
    const turn = (first) => {
      state.first = Math.min(Math.max(first || 0, 0), Latent.LARGEST_SEED);
      fillSheet();
    };
    byId('before').onclick = () => turn(state.first - state.count);
    byId('after').onclick = () => turn(state.first + state.count);
    byId('first').onchange = () => turn(Math.floor(Number(byId('first').value)));

    window.addEventListener('hashchange', () => openAddress());
    window.addEventListener('resize', () => {
      fitStage();
      if (state.columns !== columnsThatFit()) fillSheet();
    });
    listenToSheet();
    listenToCells();
    listenToDrags();
  }

  // --- Sharing ------------------------------------------------------------------------------------------------------

  async function copyLink() {
    remember();
    try {
      await navigator.clipboard.writeText(location.href);
      byId('share-view').textContent = 'Copied';
    } catch {
      byId('share-view').textContent = 'In the address bar';
    }
    setTimeout(() => (byId('share-view').textContent = 'Copy link'), 1500);
  }

  function save() {
    const name = `${run.name}-${describe()}`.replaceAll(/[^\w.-]+/g, '-');
    make('a', {href: byId('image').toDataURL('image/png'), download: `${name}.png`}).click();
  }

  /** Takes the view from the address; whether there was one. */
  async function openAddress() {
    const found = Latent.fromAddress(location.hash, run.zDim);
    Object.assign(view, {moves: {}, off: {}, label: null});
    for (const [i, amount] of Object.entries(found.moves)) if (run.directions[i]) view.moves[i] = amount;
    for (const {name, features} of run.layers) {
      if (found.off[name]) view.off[name] = new Set([...found.off[name]].filter((map) => map < features));
    }
    if (found.label !== null && found.label < run.classes) view.label = found.label;
    const {source} = found;
    if (source) {
      if (state.playing) play(false);
      view.source = source;
      if (source.kind === 'seed') state.picked = source.seed;
      if (source.kind === 'blend') Object.assign(state, {from: source.from, to: source.to});
      if (source.kind === 'sum') state.sums = {a: [...source.a], b: [...source.b], c: [...source.c]};
      if (source.kind === 'walk') Object.assign(state, {points: [...source.points], through: true});
    }
    showClasses();
    showMoves();
    if (run.layers.length) showOff();
    if (found.step !== null && !run.frames.length) await chooseStep(found.step);
    showBlend(view.source.kind === 'blend' ? view.source.t : 0.5);
    showSum();
    showPath();
    chooseTab(found.tab);
    markPicked();
    changed(true);
    return Boolean(source);
  }

  // --- Beginning ----------------------------------------------------------------------------------------------------

  function showClasses() {
    pressOne(all('#classes button'), all('#classes button').find((button) => button.dataset.label === String(view.label)));
  }

  function makeClasses() {
    const button = (text, label) => {
      const element = make('button', {type: 'button', textContent: text, title: text});
      element.dataset.label = String(label);
      element.onclick = () => {
        view.label = label;
        showClasses();
        changed(true);
      };
      return element;
    };
    byId('classes').hidden = !run.classes;
    byId('classes').querySelector('.buttons').append(button('in turn', null), ...run.classNames.map(button));
  }

  /** The largest whole scale that fits. */
  function fitStage() {
    const width = document.documentElement.clientWidth;
    const narrow = matchMedia('(max-width: 56rem)').matches;
    const [across, down] = narrow
      ? [Math.min(width / 2, 260), 260]
      : [byId('stage').clientWidth - 32, window.innerHeight * 0.55];
    setScale(byId('image'), Math.max(1, Math.floor(Math.min(across / run.width, down / run.height))));
  }

  function makeZooms() {
    const usual = Math.max(1, Math.round(80 / run.height));
    byId('zoom').append(...[1, 2, 3, 4, 6].map((zoom) => make('option', {value: zoom, textContent: `${zoom}×`, selected: zoom === usual})));
  }

  function describeRun() {
    byId('about').textContent = [
      run.source === run.name ? '' : run.source,
      `${run.width}×${run.height} pixels`,
      `step ${run.step.toLocaleString('en')}`,
      run.parameters < 1e6 ? `${run.parameters.toLocaleString('en')} weights` : `${(run.parameters / 1e6).toPrecision(2)} million weights`,
    ].filter(Boolean).join(' · ');
    const bytes = run.weightsFile ? weights.byteLength : document.documentElement.outerHTML.length;
    byId('footer').textContent =
      `A deep convolutional GAN, drawn in this page by its own weights in half precision; nothing leaves this machine. ${(bytes / 1e6).toFixed(1)} MB.`;
  }

  /** The weights of all networks, one after the other. */
  async function loadWeights() {
    if (!run.weightsFile) return Uint8Array.from(atob(byId('weights').textContent), (letter) => letter.charCodeAt(0)).buffer;
    try {
      const answer = await fetch(run.weightsFile);
      if (!answer.ok) throw new Error(answer.statusText);
      return await answer.arrayBuffer();
    } catch {
      return askForWeights();
    }
  }

  /** A page that was opened from a file may not read other files by itself. */
  function askForWeights() {
    complain(`The networks are in a file of their own, ${run.weightsFile}, which this page could not read. Choose the file here, or start: ${run.command} `);
    const input = make('input', {type: 'file', 'aria-label': run.weightsFile});
    byId('problem').append(input);
    return new Promise((resolve) => {
      input.onchange = async () => {
        byId('problem').hidden = true;
        byId('loading').hidden = false;
        resolve(await input.files[0].arrayBuffer());
      };
    });
  }

  async function start() {
    weights = await loadWeights();
    const needed = Math.max(...[...run.generators, run.discriminator].filter(Boolean).map(({offset, bytes}) => offset + bytes));
    if (weights.byteLength < needed) throw new Error(`The weights are cut short: ${weights.byteLength} of ${needed} bytes.`);
    const own = run.generators.find(({step}) => step === run.step);
    generators.set(run.step, await DcganEngine.create(own.spec, part(own), {backend: 'auto'}));
    if (run.discriminator) discriminator = await DcganEngine.create(run.discriminator.spec, part(run.discriminator), {backend: 'auto'});
    byId('opinion').hidden = byId('opinions-label').hidden = !discriminator;
    if (!run.odds) byId('opinion').querySelector('.scale').hidden = true;
    if (!run.layers.length) all('[data-tab=maps]').forEach((element) => element.remove());

    byId('loading').hidden = true;
    byId('main').hidden = false;
    if (generator().backend === 'js') complain('This browser does not run WebAssembly here: images come several times as slowly.');
    describeRun();
    makeClasses();
    makeMoves();
    makeCells();
    makeZooms();
    if (run.layers.length) {
      makeLayers();
      makeMaps();
    }
    makeFilm();
    listen();
    fitStage();
    fillSheet();
    chooseSlot('to');
    if (films.length > 1 && run.frames.length) showFilm(films.length - 1);
    else byId('step').value = films.length - 1;
    byId('step-text').textContent = films.length ? films[films.length - 1].step.toLocaleString('en') : '';
    const shared = await openAddress();
    if (!shared && !matchMedia('(prefers-reduced-motion: reduce)').matches) play(true);
    document.body.dataset.ready = 'true';
  }

  start().catch((error) => complain(error.message));
})();
