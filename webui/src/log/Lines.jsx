// Lines of a log, in blocks that the browser lays out only when they are near. A click at the head of a line gives its address.
import { Steady } from '../parts.jsx'

const BLOCK = 200

class Block extends Steady {
  // What an attempt has printed stays as it is; only a last line may grow.
  shouldComponentUpdate(props, state) {
    const { lines } = this.props
    const same = props.lines.length === lines.length && props.lines.at(-1).text === lines.at(-1).text
    return super.shouldComponentUpdate(same ? { ...props, lines } : props, state)
  }

  render({ lines, found, current, mark }) {
    return (
      <div class="log-block">
        {lines.map(({ at, parts }) => (
          <span key={at} class={`log-line${found?.has(at) ? ' found' : ''}${current === at ? ' current' : ''}${mark === at ? ' marked' : ''}`} data-at={at}>
            {parts.map((piece, index) => (
              <span key={index} class={piece.class} style={piece.style}>
                {piece.text}
              </span>
            ))}
            {'\n'}
          </span>
        ))}
      </div>
    )
  }
}

export function Lines({ pieces, found, current, mark }) {
  return pieces.flatMap((piece) => {
    const blocks = []
    for (let at = 0; at < piece.lines.length; at += BLOCK) blocks.push(piece.lines.slice(at, at + BLOCK))
    return blocks.map((lines) => {
      const here = (at) => (at !== null && lines.some((line) => line.at === at) ? at : null)
      return <Block key={lines[0].at} lines={lines} found={found} current={here(current)} mark={here(mark)} />
    })
  })
}
