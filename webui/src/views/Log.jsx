// The end of a job's log, live: what was printed since the last round is fetched by its offset and added.
import { useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks'
import { toLines } from '../ansi.js'
import * as api from '../api.js'
import { bytes } from '../format.js'
import { saveLog } from '../log/save.js'
import { Fault } from '../parts.jsx'
import { Link } from '../place.jsx'
import { unlessAway, useLive } from '../poll.js'

const TAIL_BYTES = 64 * 1024
const KEPT_CHARACTERS = 256 * 1024

// A loader that remembers how far it has read, and starts anew when another attempt has.
function tailOf(id) {
  let attempt = 0
  let next = -TAIL_BYTES
  let decoder = new TextDecoder()
  let shown = { text: '', cut: false, size: 0, open: false }
  const restart = () => {
    attempt = 0
    next = -TAIL_BYTES
    decoder = new TextDecoder()
    shown = { text: '', cut: false, size: 0, open: false }
  }
  return async function load() {
    let piece = await api.log(id, next, TAIL_BYTES)
    if (attempt && piece.attempt !== attempt) {
      restart()
      piece = await api.log(id, next, TAIL_BYTES)
    }
    const first = !attempt
    attempt = piece.attempt
    next = piece.offset + piece.bytes.length
    let text = decoder.decode(piece.bytes, { stream: true })
    if (first && piece.offset > 0) text = text.slice(text.indexOf('\n') + 1) // it began within a line
    text = shown.text + text
    const long = text.length > KEPT_CHARACTERS
    if (long) text = text.slice(text.indexOf('\n', text.length - KEPT_CHARACTERS) + 1)
    shown = { text, attempt, cut: long || (first ? piece.offset > 0 : shown.cut), size: piece.size, open: piece.open }
    return shown
  }
}

const Line = ({ pieces }) => (
  <span class="log-line">
    {pieces.map((piece, index) => (
      <span key={index} class={piece.class} style={piece.style}>
        {piece.text}
      </span>
    ))}
    {'\n'}
  </span>
)

export function Log({ job }) {
  const load = useMemo(() => tailOf(job.id), [job.id])
  const { data, error } = useLive(`log:${job.id}`, load, job.state === 'WORKING' ? 1 : 3)
  const [follow, setFollow] = useState(true)
  const box = useRef(null)
  useLayoutEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight
  }, [data?.text, follow])
  const lines = useMemo(() => toLines((data?.text || '').replace(/\n$/, '')), [data?.text])
  const onScroll = () => {
    if (!box.current) return // the scroll was told after the log was closed
    const { scrollTop, scrollHeight, clientHeight } = box.current
    setFollow(scrollHeight - scrollTop - clientHeight < 24)
  }
  if (error?.status === 404 || (data && !data.attempt)) return null // nothing ran yet
  return (
    <section class="log">
      <h3>
        Log
        <span class="aside">
          {data?.open && <span class="live">live</span>}
          {data?.size > 0 && bytes(data.size)}
          {!follow && (
            <button type="button" class="plain" onClick={() => setFollow(true)}>
              To the end
            </button>
          )}
          {data?.size > 0 && <Link to={{ view: 'log' }}>Whole log</Link>}
          {data?.size > 0 && (
            <button type="button" class="plain" onClick={() => unlessAway(() => saveLog(`job-${job.id}.log`, (offset) => api.log(job.id, offset)))}>
              Save
            </button>
          )}
        </span>
      </h3>
      <Fault error={error} />
      {data && !data.text ? (
        <p class="empty">{data.open ? 'It has printed nothing yet.' : 'No output.'}</p>
      ) : (
        <pre ref={box} class="output" tabIndex={0} aria-label="Log" onScroll={onScroll}>
          {data?.cut && <span class="cut">… earlier output is in the saved log{'\n'}</span>}
          {lines.map((pieces, index) => (
            <Line key={index} pieces={pieces} />
          ))}
        </pre>
      )}
    </section>
  )
}
