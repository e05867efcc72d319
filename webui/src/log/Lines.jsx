// Lines of a log, in blocks that the browser lays out only when they are near. A click at the head of a line gives its address.
import { useMemo } from 'preact/hooks'

const BLOCK = 200

function Block({ lines, found, current, mark }) {
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

// Drawn again only when something of the block changes.
function Kept({ lines, found, current, mark }) {
  const here = (at) => at !== null && lines.some((line) => line.at === at)
  return useMemo(() => <Block {...{ lines, found, current, mark }} />, [lines, found, here(current) && current, here(mark) && mark])
}

export function Lines({ pieces, found, current, mark }) {
  return pieces.flatMap((piece) => {
    const blocks = []
    for (let at = 0; at < piece.lines.length; at += BLOCK) blocks.push(piece.lines.slice(at, at + BLOCK))
    return blocks.map((lines) => <Kept key={lines[0].at} {...{ lines, found, current, mark }} />)
  })
}
