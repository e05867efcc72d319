// What every view is made of: states, times, money, bars, actions, and the words for nothing and for trouble.
import { Component } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { duration, exact, relative } from './format.js'
import { link, now, refresh } from './poll.js'

// What is drawn again only when one of its properties is another. (A vnode that is kept, in useMemo or a constant, would do as much, and
// hold on to every list that it was ever part of: it knows its parent.)
export class Steady extends Component {
  shouldComponentUpdate(props, state) {
    return state !== this.state || Object.keys(props).some((name) => props[name] !== this.props[name])
  }
}

// One shape and one colour for each kind of state, everywhere: [shape, tone, word].
const STATES = {
  WAITING: ['ring', 'quiet', 'waiting'],
  PENDING: ['dashes', 'quiet', 'pending'],
  WORKING: ['disc', 'alive', 'working'],
  RUNNING: ['disc', 'alive', 'running'],
  FINISHED: ['check', 'good', 'finished'],
  ERROR: ['square', 'bad', 'error'],
  SICK: ['square', 'bad', 'sick'],
  FAILED: ['square', 'bad', 'failed'],
  PAUSED: ['bars', 'warn', 'paused'],
  INTENDED: ['quarter', 'alive', 'intended'],
  STARTING: ['quarter', 'alive', 'starting'],
  LEASED: ['quarter', 'alive', 'leased'],
  DRAINING: ['half', 'warn', 'draining'],
  TERMINATING: ['half', 'warn', 'terminating'],
  TIMEOUT: ['triangle', 'warn', 'silent'],
  LOST: ['triangle', 'warn', 'lost'],
  STOPPED: ['dash', 'quiet', 'stopped'],
  TERMINATED: ['dash', 'quiet', 'terminated'],
  GONE: ['dash', 'quiet', 'gone'],
}

const RING = 'M10 6a4 4 0 1 1-8 0 4 4 0 1 1 8 0z'
// What is drawn as a line, what is filled, and the dashes of the line.
const SHAPES = {
  ring: [RING],
  dashes: [RING, '', '2.1 2.1'],
  disc: ['', 'M10.75 6a4.75 4.75 0 1 1-9.5 0 4.75 4.75 0 1 1 9.5 0z'],
  check: ['M1.8 6.4 4.8 9.3 10.2 3'],
  square: ['', 'M2.75 1.75h6.5a1 1 0 0 1 1 1v6.5a1 1 0 0 1-1 1h-6.5a1 1 0 0 1-1-1v-6.5a1 1 0 0 1 1-1z'],
  bars: ['', 'M3 1.8h2.1v8.4H3zM6.9 1.8H9v8.4H6.9z'],
  quarter: [RING, 'M6 6V1.5A4.5 4.5 0 0 1 10.5 6z'],
  half: [RING, 'M1.5 6h9a4.5 4.5 0 0 1-9 0z'],
  triangle: ['', 'M6 1.2 11.2 10.4H.8z'],
  dash: ['M2 6h8'],
}

export function Glyph({ state, silent = false }) {
  const [shape, tone, word] = STATES[state] || ['ring', 'quiet', state]
  const [line, filled, dashes] = SHAPES[shape]
  return (
    <svg class={`glyph ${tone}`} viewBox="0 0 12 12" width="12" height="12" role="img" aria-label={word} aria-hidden={silent}>
      {line && <path d={line} class="line" stroke-dasharray={dashes} />}
      {filled && <path d={filled} />}
    </svg>
  )
}

export function State({ state }) {
  const [, tone, word] = STATES[state] || ['', 'quiet', String(state).toLowerCase()]
  return (
    <span class={`state ${tone}`}>
      <Glyph state={state} silent />
      <span class="word">{word}</span>
    </span>
  )
}

// A moment, relative; the exact one on hover.
export function Ago({ at, words = relative }) {
  if (!at) return null
  return (
    <time dateTime={new Date(at * 1000).toISOString()} title={exact(at)}>
      {words(at, now.value)}
    </time>
  )
}

// From one moment to another, or until now.
export function Lasting({ from, to }) {
  if (!from) return null
  return <span title={`${exact(from)} – ${to ? exact(to) : 'now'}`}>{duration(Math.floor((to || now.value) - from))}</span>
}

const share = (part, whole) => `${whole > 0 ? Math.min(100, Math.max(0, (100 * part) / whole)) : 0}%`

// Parts of a whole side by side: [{amount, tone}].
export function Bar({ parts, whole, label, tall = false }) {
  return (
    <span class={tall ? 'bar tall' : 'bar'} role="img" aria-label={label} title={label}>
      {parts.map(({ amount, tone }) => amount > 0 && <span key={tone} class={tone} style={{ width: share(amount, whole) }} />)}
    </span>
  )
}

export function Section({ name, title, lead, aside, children }) {
  return (
    <section class={name} aria-labelledby={`${name}-title`}>
      <header>
        <h2 id={`${name}-title`}>{title}</h2>
        {lead}
        {aside && <div class="aside">{aside}</div>}
      </header>
      {children}
    </section>
  )
}

// A small menu that opens below its button.
export function Popup({ label, children }) {
  const details = useRef(null)
  const close = (event) => {
    if (event.key !== 'Escape' || !details.current.open) return
    event.stopPropagation()
    details.current.open = false
    details.current.firstElementChild.focus()
  }
  return (
    <details class="popup" ref={details} onKeyDown={close} onFocusOut={(event) => event.relatedTarget && !details.current.contains(event.relatedTarget) && (details.current.open = false)}>
      <summary>{label}</summary>
      <div class="sheet">{children}</div>
    </details>
  )
}

// Something opened beside the view, or over it where there is no room; Escape closes it.
export function Panel({ title, label, path, onClose, children, kind = '' }) {
  const closer = useRef(null)
  useEffect(() => {
    const isWritten = () => closer.current.closest('aside').querySelector('.field.changed')
    const onKey = (event) => event.key === 'Escape' && !isWritten() && onClose()
    document.addEventListener('keydown', onKey)
    return () => document.removeEventListener('keydown', onKey)
  }, [onClose])
  useEffect(() => {
    if (matchMedia('(max-width: 67.99rem)').matches) closer.current.focus() // as in detail.css
  }, [])
  return (
    <aside class={`detail ${kind}`} aria-label={label}>
      <header>
        <div>
          {path && <p class="path">{path}</p>}
          <h2>{title}</h2>
        </div>
        <button type="button" class="plain close" ref={closer} onClick={onClose} aria-label="Close" title="Close (Esc)">
          ✕
        </button>
      </header>
      {children}
    </aside>
  )
}

// One of a few: `words` is {value: word}.
export function Modes({ label, value, words, onChoose }) {
  return (
    <span class="modes" role="group" aria-label={label}>
      {Object.entries(words).map(([one, word]) => (
        <button key={one} type="button" class="plain" aria-pressed={value === one} onClick={() => onChoose(one)}>
          {word}
        </button>
      ))}
    </span>
  )
}

export const Empty = ({ children }) => <p class="empty">{children}</p>

// Why a part of the page cannot be shown.
export function Fault({ error }) {
  if (!error) return null
  const words = error.status === 403 ? 'You may not see this. Ask whoever runs the farm for the right to.' : `This could not be loaded: ${error.message}`
  return (
    <p class="fault" role="alert">
      {words}
    </p>
  )
}

// Until the first answer: nothing for a moment, then a word.
export function Loading() {
  if (!link.value.online) return <p class="empty">The server does not answer: this comes as soon as it does.</p>
  return <p class="empty loading">Loading …</p>
}

// Buttons of `actions` [{name, label, run, confirm}] on `which`; `confirm`, words or what gives them, is asked first.
export function Actions({ actions, label, which }) {
  const [asked, setAsked] = useState(null)
  const [trouble, setTrouble] = useState('')
  const [busy, setBusy] = useState(false)
  const keep = useRef(null)
  useEffect(() => asked && keep.current?.focus(), [asked])

  const attempt = async (action, step) => {
    setAsked(null)
    setTrouble('')
    setBusy(true)
    try {
      await step()
    } catch (error) {
      if (error.status === undefined) throw error
      setTrouble(`${action.label}: ${error.message}`)
    } finally {
      setBusy(false)
    }
  }
  const run = (action) =>
    attempt(action, async () => {
      await action.run(which)
      await refresh()
    })
  const ask = (action) =>
    attempt(action, async () => {
      const words = typeof action.confirm === 'function' ? await action.confirm(which) : action.confirm
      setAsked({ ...action, words })
    })
  const onKeyDown = (event) => {
    if (event.key === 'Escape' && asked) {
      event.stopPropagation()
      setAsked(null)
    }
  }
  return (
    <div class="actions" role="group" aria-label={label} onClick={(event) => event.stopPropagation()} onKeyDown={onKeyDown}>
      {asked ? (
        <span class="question">
          {asked.words}{' '}
          <button type="button" class="grave" onClick={() => run(asked)}>
            {asked.label}
          </button>
          <button type="button" ref={keep} onClick={() => setAsked(null)}>
            Cancel
          </button>
        </span>
      ) : (
        actions.map((action) => (
          <button key={action.name} type="button" disabled={busy} data-action={action.name} onClick={() => (action.confirm ? ask(action) : run(action))}>
            {action.label}
          </button>
        ))
      )}
      {trouble && (
        <span class="trouble" role="alert">
          {trouble}
        </span>
      )}
    </div>
  )
}
