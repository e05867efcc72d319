// A log over the whole page: live at its end, back to its beginning, searched, with links to lines.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks'
import * as api from '../api.js'
import { bytes, plural } from '../format.js'
import { Lines } from '../log/Lines.jsx'
import { Reader } from '../log/reader.js'
import { saveLog } from '../log/save.js'
import { Actions, Empty, Fault, Loading, Section } from '../parts.jsx'
import { go, Link, place } from '../place.jsx'
import { unlessAway, useLive } from '../poll.js'

const ERRORS = /\b(error|errors|fatal|exception|traceback|failed|failure)\b/i
const NEAR = 400 // pixels from an end at which more is loaded
const FURTHEST = 400 // pieces that one search reads
const GUTTER = 20 // pixels

function useReader(job, attempt) {
  return useMemo(() => new Reader((offset, limit) => (attempt ? api.attemptLog(attempt, offset, limit) : api.log(job, offset, limit))), [job, attempt])
}

// Where the text is, in what is loaded; and, further back, in what is not yet.
function useSearch(reader, show) {
  const [text, setText] = useState('')
  const [current, setCurrent] = useState(null)
  const [words, setWords] = useState('')
  const fits = (test) => (line) => (test instanceof RegExp ? test.test(line.text) : line.text.toLowerCase().includes(test.toLowerCase()))
  const found = useMemo(() => (text ? new Set(reader.lines.filter(fits(text)).map((line) => line.at)) : null), [text, reader.version.value])
  const step = (test, forward) => unlessAway(() => look(test, forward))
  const look = async (test, forward) => {
    const { job, attempt } = place.value
    const hits = () => reader.lines.filter(fits(test)).map((line) => line.at)
    const next = () => (forward ? hits().find((at) => at > (current ?? -1)) : hits().findLast((at) => at < (current ?? Infinity)))
    let at = next()
    for (let turn = 0; at === undefined && forward && turn < FURTHEST; turn += 1) {
      const { end } = reader
      setWords('searching further on …')
      await reader.later()
      if (reader.end === end) break
      at = next()
    }
    if (at === undefined && !forward && reader.first > 0) {
      setWords('searching further back …')
      const place = await reader.back(fits(test), FURTHEST)
      if (place >= 0) at = place
    }
    setWords(at === undefined ? (forward ? 'none further on' : 'none further back') : '')
    if (at === undefined || job !== place.value.job || attempt !== place.value.attempt) return
    setCurrent(at)
    go({ at: at + 1 }, true) // a link to it
    show(at)
  }
  return { text, setText, found, current, step, words }
}

function Search({ search, ready, all }) {
  const { text, setText, found, step, words } = search
  return (
    <div class="log-search" role="search">
      <input
        type="search"
        placeholder="Find in the log"
        aria-label="Find in the log"
        title="Enter: further back; Shift+Enter: further on"
        value={text}
        onInput={(event) => setText(event.target.value)}
        onKeyDown={(event) => event.key === 'Enter' && text && ready && step(text, event.shiftKey)}
      />
      {text && (
        <>
          <button type="button" aria-label="Find further back" onClick={() => step(text, false)}>
            ↑
          </button>
          <button type="button" aria-label="Find further on" onClick={() => step(text, true)}>
            ↓
          </button>
        </>
      )}
      <button type="button" disabled={!ready} onClick={() => step(ERRORS, false)}>
        Previous error
      </button>
      <button type="button" disabled={!ready} onClick={() => step(ERRORS, true)}>
        Next error
      </button>
      <span class="of" role="status">
        {words || (found && plural(found.size, all ? 'line' : 'line near here', all ? 'lines' : 'lines near here'))}
      </span>
    </div>
  )
}

function Attempts({ job }) {
  const { data } = useLive(`attempts:${job}`, () => api.attempts(job), 3)
  if (!data || data.length < 2) return null
  return (
    <select aria-label="Attempt" value={place.value.attempt} onChange={(event) => go({ attempt: Number(event.target.value), at: 0 })}>
      <option value={0}>newest attempt</option>
      {data.map((attempt) => (
        <option key={attempt.id} value={attempt.id}>
          #{attempt.id} on {attempt.worker}, {attempt.state.toLowerCase()}
        </option>
      ))}
    </select>
  )
}

export function LogView() {
  const { job: id, attempt, at } = place.value
  const mark = at ? at - 1 : null
  const job = useLive(`detail:${id}`, () => api.job(id), 2).data
  const reader = useReader(id, attempt)
  const box = useRef(null)
  const [follow, setFollow] = useState(mark === null)
  const [wrap, setWrap] = useState(true)
  const show = (where) => {
    setFollow(false)
    requestAnimationFrame(() => box.current?.querySelector(`[data-at="${where}"]`)?.scrollIntoView({ block: 'center' }))
  }
  const search = useSearch(reader, show)
  const load = async () => {
    if (!reader.pieces.length) await reader.begin(mark)
    else if (follow) await reader.later()
    else if (reader.open) await reader.measure()
    return reader.version.value
  }
  const { error } = useLive(`log-view:${id}:${attempt}`, load)
  reader.version.value // drawn again when it changes
  useEffect(() => mark !== null && reader.pieces.length > 0 && show(mark), [mark, reader.pieces.length > 0])
  useLayoutEffect(() => {
    if (follow && box.current) box.current.scrollTop = box.current.scrollHeight
  }, [reader.version.value, follow])
  const earlier = async () => {
    const before = box.current.scrollHeight
    await unlessAway(() => reader.earlier())
    requestAnimationFrame(() => {
      if (box.current) box.current.scrollTop += box.current.scrollHeight - before
    })
  }
  const onScroll = () => {
    if (!box.current) return // it scrolled as it went away
    const { scrollTop, scrollHeight, clientHeight } = box.current
    const below = scrollHeight - scrollTop - clientHeight
    setFollow(below < 24 && reader.end >= reader.size)
    if (scrollTop < NEAR && reader.first > 0 && !reader.busy) earlier()
    if (below < NEAR && reader.end < reader.size && !reader.busy) unlessAway(() => reader.later())
  }
  const onClick = (event) => {
    const line = event.target.closest('.log-line')
    if (line && event.clientX - line.getBoundingClientRect().x < GUTTER) go({ at: Number(line.dataset.at) + 1 })
  }
  const toEnd = () =>
    unlessAway(async () => {
      if (reader.end < reader.size) await reader.begin()
      setFollow(true)
    })
  const toBeginning = () =>
    unlessAway(async () => {
      await reader.begin(0)
      show(0)
    })
  const read = (offset) => (attempt ? api.attemptLog(attempt, offset) : api.log(id, offset))
  return (
    <Section name="log-page" title={job ? job.title || `Job ${id}` : `Job ${id}`} lead={<Link to={{ view: 'jobs', job: id }} class="job-link">#{id}</Link>} aside={reader.size > 0 && `${bytes(reader.size)}${reader.open ? ', live' : ''}`}>
      <div class="log-tools">
        <Search search={search} ready={reader.version.value > 0} all={reader.first === 0 && reader.end >= reader.size} />
        <Attempts job={id} />
        <label>
          <input type="checkbox" checked={wrap} onChange={() => setWrap(!wrap)} /> wrap
        </label>
        <Actions label="The log" actions={[{ name: 'save', label: 'Save', run: () => saveLog(`job-${id}.log`, read) }]} />
        {reader.first > 0 && (
          <button type="button" onClick={toBeginning}>
            To the beginning
          </button>
        )}
        {!follow && (
          <button type="button" onClick={toEnd}>
            To the end
          </button>
        )}
      </div>
      <Fault error={error} />
      {!reader.version.value && !error && <Loading />}
      {reader.version.value > 0 && !reader.pieces.length && !error && <Empty>{reader.attempt ? 'It has printed nothing yet.' : 'It has not run yet.'}</Empty>}
      {reader.pieces.length > 0 && (
        <pre ref={box} class={wrap ? 'output whole' : 'output whole flat'} tabIndex={0} aria-label="Log" onScroll={onScroll} onClick={onClick}>
          {reader.first > 0 && <span class="cut">… {bytes(reader.first)} before{'\n'}</span>}
          <Lines key={reader.attempt} pieces={reader.pieces} found={search.found} current={search.current} mark={mark} />
        </pre>
      )}
    </Section>
  )
}
