// Terminal output -> lines of pieces {text, style}. It gives texts and class names only, never HTML.
// Colours and weights (SGR) are kept, other escape sequences are dropped, and a carriage return starts its line again.

const ESCAPE = /\x1b\[([0-9;:]*)([A-Za-z])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g
const NAMES = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white']
const FLAGS = { 1: 'bold', 2: 'dim', 3: 'italic', 4: 'underline' }

const plain = () => ({ flags: new Set(), fg: '', bg: '' })

// 16 named colours follow the theme; the 240 others and true colours are what the program asked for.
function indexed(n) {
  if (n < 16) return NAMES[n % 8]
  const level = (v) => (v ? 55 + v * 40 : 0)
  if (n >= 232) return `rgb(${Array(3).fill(8 + (n - 232) * 10)})`
  const cube = n - 16
  return `rgb(${[Math.floor(cube / 36), Math.floor(cube / 6) % 6, cube % 6].map(level)})`
}

function extended(codes) {
  if (codes[0] === 5) return indexed(Math.min(255, codes.splice(0, 2)[1] || 0))
  if (codes[0] === 2) return `rgb(${codes.splice(0, 4).slice(1).map((v) => Math.min(255, v || 0))})`
  return ''
}

function apply(pen, parameters) {
  const codes = parameters.split(/[;:]/).map((text) => Number(text) || 0)
  while (codes.length) {
    const code = codes.shift()
    if (code === 0) Object.assign(pen, plain())
    else if (FLAGS[code]) pen.flags.add(FLAGS[code])
    else if (code === 22) ['bold', 'dim'].forEach((flag) => pen.flags.delete(flag))
    else if (code === 23 || code === 24) pen.flags.delete(FLAGS[code - 20])
    else if (code === 38) pen.fg = extended(codes)
    else if (code === 48) pen.bg = extended(codes)
    else if (code === 39) pen.fg = ''
    else if (code === 49) pen.bg = ''
    else if ((code >= 30 && code < 38) || (code >= 90 && code < 98)) pen.fg = NAMES[code % 10]
    else if ((code >= 40 && code < 48) || (code >= 100 && code < 108)) pen.bg = NAMES[code % 10]
  }
}

function piece(text, pen) {
  const classes = [...pen.flags]
  const style = {}
  if (pen.fg.startsWith('rgb')) style.color = pen.fg
  else if (pen.fg) classes.push(`fg-${pen.fg}`)
  if (pen.bg.startsWith('rgb')) style.backgroundColor = pen.bg
  else if (pen.bg) classes.push(`bg-${pen.bg}`)
  return { text, class: classes.join(' ') || undefined, style }
}

function readLine(line, pen) {
  const pieces = []
  let from = 0
  const add = (text) => text && pieces.push(piece(text, pen))
  for (const match of line.matchAll(ESCAPE)) {
    add(line.slice(from, match.index))
    from = match.index + match[0].length
    if (match[2] === 'm') apply(pen, match[1])
  }
  add(line.slice(from))
  return pieces
}

export function toLines(text) {
  const pen = plain()
  return text.split('\n').map((line) => {
    const shown = line.replace(/\r+$/, '')
    return readLine(shown.slice(shown.lastIndexOf('\r') + 1), pen)
  })
}
