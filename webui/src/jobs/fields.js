// The fields of a job that can be given or changed: word, kind, and how a kind is written in a text field and read back.
const words = { to: (value) => value.join(' '), from: (text) => text.split(/[\s,]+/).filter(Boolean) }
const unlessBlank = (text) => (text.trim() ? text : '')
const lines = { to: (value) => value.join('\n'), from: (text) => text.split('\n').filter(unlessBlank), area: true }
const number = { to: String, from: (text) => (text.trim() === '' ? 0 : Number(text)), numeric: true }
const UNITS = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 }

function sizeOf(text) {
  const [, amount, unit] = /^\s*([\d.]+)\s*([KMGT]?)i?B?\s*$/i.exec(text) || []
  return amount ? Math.round(Number(amount) * (UNITS[unit.toUpperCase()] || 1)) : text.trim() === '' ? 0 : text
}

function sizeText(value) {
  const unit = Object.keys(UNITS).reverse().find((name) => value && value % UNITS[name] === 0)
  return unit ? `${value / UNITS[unit]}${unit}` : String(value)
}

export const KINDS = {
  text: { to: (value) => value ?? '', from: unlessBlank },
  pattern: { to: (value) => value ?? '', from: (text) => text || null },
  area: { to: (value) => value ?? '', from: unlessBlank, area: true },
  number,
  size: { to: sizeText, from: sizeOf, numeric: true },
  words,
  lines,
  codes: { to: words.to, from: (text) => words.from(text).map(Number) },
  ids: { to: (value) => value.map((one) => one.on ?? one).join(' '), from: (text) => words.from(text).map((word) => (/^\d+$/.test(word) ? Number(word) : word)) },
  flag: { to: (value) => (value ? 'yes' : 'no'), from: (text) => text === 'yes' },
  pairs: {
    to: (value) => Object.entries(value).map((pair) => pair.join('=')).join('\n'),
    from: (text) => Object.fromEntries(text.split('\n').filter(unlessBlank).map((line) => [line.split('=')[0], line.slice(line.indexOf('=') + 1)])),
    area: true,
  },
  counts: {
    to: (value) => Object.entries(value).map((pair) => pair.join('=')).join(' '),
    from: (text) => Object.fromEntries(words.from(text).map((word) => [word.split('=')[0], Number(word.split('=')[1] ?? 1)])),
  },
}

export const FIELDS = {
  title: ['Title', 'text'],
  command: ['Command', 'area'],
  dir: ['Directory', 'text'],
  user: ['User', 'text'],
  priority: ['Priority', 'number', '0 to 255, 127 is usual'],
  affinity: ['Affinity', 'words', 'tags that a worker must have'],
  cpus: ['CPUs', 'number'],
  memory_bytes: ['Memory', 'size', 'such as 8G'],
  gpus: ['GPUs', 'number'],
  gpu_memory_bytes: ['Memory of a GPU', 'size', 'such as 12G'],
  exclusive: ['Alone on its worker', 'flag'],
  limits: ['Limits', 'counts', 'such as nuke=1'],
  retries: ['Retries', 'number'],
  timeout_s: ['Time limit, s', 'number', '0: none'],
  timeout_output_s: ['Without output, s', 'number', 'killed after so long; 0: never'],
  timeout_progress_s: ['Without progress, s', 'number', 'killed after so long; 0: never'],
  depends_on: ['After', 'ids', 'numbers of jobs'],
  depends_any: ['One of them is enough', 'flag'],
  workers: ['Only on', 'words', 'names of workers'],
  not_workers: ['Not on', 'words', 'names of workers'],
  max_running: ['At a time', 'number', 'of a group; 0: any number'],
  decrease_priority_after: ['Sinks after errors', 'number', 'of a group; 0: never'],
  environment: ['Environment', 'pairs', 'NAME=value, one a line'],
  url: ['Address', 'text'],
  progress_pattern: ['Progress pattern', 'pattern', 'of a line of the log; %percent is 0 to 100, %one 0 to 1'],
  error_patterns: ['Error patterns', 'lines', 'of lines of the log, one a line'],
  licence_patterns: ['Licence patterns', 'lines', 'lines that mean: no licence, try later'],
  licence_codes: ['Licence exit codes', 'codes'],
  notify: ['Tells by mail', 'words', 'error, finished, first:N, none, addresses'],
  note: ['Note', 'area'],
}

export const textOf = (name, job) => KINDS[FIELDS[name][1]].to(name === 'depends_on' ? job.dependencies : job[name])
export const valueOf = (name, text) => KINDS[FIELDS[name][1]].from(text)
