// Terminal output -> lines of pieces {text, class, style}. ansi_up reads the colours and weights (SGR); of its HTML nothing is used: texts, class
// names and colours are all that leaves here. Other escape sequences are dropped, and a carriage return starts its line again.
import { AnsiUp } from 'ansi_up'

const SGR = /\x1b\[[0-9;:]*m/g
const OTHER = /\x1b\[(?![0-9;:]*m)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]+[0-~]|\x1b(?!\[[0-9;:]*m)[0-Z\\^-~]?|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]/g
const FLAGS = { bold: 'bold', faint: 'dim', italic: 'italic', underline: 'underline' }

// ansi_up knows colours that are divided by semicolons.
const divided = (sgr) => sgr.replace('8:2::', '8:2:').replaceAll(':', ';')

class Pen extends AnsiUp {
  pieces(line) {
    this.found = []
    this.ansi_to_html(line.replace(OTHER, '').replace(SGR, divided))
    return this.found
  }

  // 16 named colours follow the theme; the 240 others and true colours are what the program asked for.
  transform_to_html({ text, fg, bg, ...flags }) {
    const classes = Object.keys(FLAGS).filter((flag) => flags[flag]).map((flag) => FLAGS[flag])
    const style = {}
    for (const [color, kind, property] of [[fg, 'fg', 'color'], [bg, 'bg', 'backgroundColor']]) {
      if (color?.class_name === 'truecolor') style[property] = `rgb(${color.rgb})`
      else if (color) classes.push(`${kind}-${color.class_name.replace(/ansi-(bright-)?/, '')}`)
    }
    this.found.push({ text, class: classes.join(' ') || undefined, style })
    return ''
  }
}

export function toLines(text) {
  const pen = new Pen()
  return text.split('\n').map((line) => {
    const shown = line.replace(/\r+$/, '')
    return pen.pieces(shown.slice(shown.lastIndexOf('\r') + 1))
  })
}
