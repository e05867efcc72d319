// The filter of the list: typed with completion, kept in the address, and saved under a name.
import { signal } from '@preact/signals'
import { useEffect, useRef, useState } from 'preact/hooks'
import { Popup } from '../parts.jsx'
import { go, place } from '../place.jsx'

const KEY = 'coalition.filters'
const PAUSE_MS = 250
const UNFINISHED = /(^|\s)-?\w+[:<>]=?$/ // a field whose value is to come: told with Enter only
// The server's grammar (coalition/filters.py); it also says what is wrong with a filter.
const FIELDS = {
  'state:': ['WAITING', 'PENDING', 'WORKING', 'FINISHED', 'ERROR'],
  'user:': [],
  'title:': [],
  'paused:': ['yes', 'no'],
  'group:': ['yes', 'no'],
  'id:': [],
  'parent:': [],
  'priority>': [],
  'errors>': ['0'],
  'retries>': [],
  'frame:': [],
  'created>': ['-1h', '-1d', '-7d'],
  'started>': ['-1h', '-1d', '-7d'],
  'ended>': ['-1h', '-1d', '-7d'],
}

export function completions(text, users) {
  const word = text.slice(text.lastIndexOf(' ') + 1).replace(/^-/, '')
  if (!word) return []
  const before = text.slice(0, text.length - word.length)
  const field = Object.keys(FIELDS).find((name) => word.startsWith(name))
  if (!field) return Object.keys(FIELDS).filter((name) => name.startsWith(word)).map((name) => before + name)
  const done = word.slice(0, Math.max(field.length, word.lastIndexOf(',') + 1))
  const typed = word.slice(done.length).toLowerCase()
  const values = field === 'user:' ? users : FIELDS[field]
  return values.filter((value) => value.toLowerCase().startsWith(typed) && value !== word.slice(done.length)).map((value) => before + done + value)
}

function keptFilters() {
  try {
    return Object.entries(JSON.parse(localStorage.getItem(KEY)) || {})
  } catch {
    return []
  }
}

const saved = signal(keptFilters())

function keep(entries) {
  saved.value = entries
  localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(entries)))
}

function Saved() {
  const { filter } = place.value
  const [name, setName] = useState('')
  const save = (event) => {
    event.preventDefault()
    keep([...saved.value.filter(([other]) => other !== name), [name, filter]])
    setName('')
  }
  return (
    <Popup label="Saved">
      {saved.value.length === 0 && <p class="hint">No filter is saved yet.</p>}
      <ul class="plain-list columns-menu">
        {saved.value.map(([word, text]) => (
          <li key={word}>
            <button type="button" class="plain" title={text} onClick={() => go({ filter: text })}>
              {word}
            </button>
            <button type="button" class="plain" aria-label={`Forget ${word}`} onClick={() => keep(saved.value.filter(([other]) => other !== word))}>
              ✕
            </button>
          </li>
        ))}
      </ul>
      {filter && (
        <form onSubmit={save}>
          <input value={name} required placeholder="Name of this filter" aria-label="Name of this filter" onInput={(event) => setName(event.target.value)} />
          <button type="submit">Save</button>
        </form>
      )}
    </Popup>
  )
}

export function Filter({ users }) {
  const [text, setText] = useState(place.value.filter)
  const [open, setOpen] = useState(false)
  const [at, setAt] = useState(-1)
  const timer = useRef(0)
  const told = useRef(place.value.filter) // what the address has from here: more may be typed by now
  useEffect(() => {
    if (told.current === place.value.filter) return
    told.current = place.value.filter
    clearTimeout(timer.current)
    setText(told.current)
  }, [place.value.filter])
  useEffect(() => () => clearTimeout(timer.current), [])
  const found = open ? completions(text, users) : []
  const tell = (value) => {
    told.current = value.trim()
    go({ filter: told.current }, true)
  }
  const write = (value, wait = 0) => {
    setText(value)
    setAt(-1)
    clearTimeout(timer.current)
    timer.current = setTimeout(() => tell(value.replace(UNFINISHED, '$1')), wait)
  }
  const keys = {
    ArrowDown: () => setAt((at + 1) % found.length),
    ArrowUp: () => setAt((at + found.length - 1) % found.length),
    Tab: () => write(found[Math.max(0, at)]),
    Escape: () => setOpen(false),
    Enter: () => at >= 0 && write(found[at]),
  }
  const onKeyDown = (event) => {
    if (event.key === 'Tab' && event.shiftKey) return
    if (event.key === 'Enter' && at < 0) {
      clearTimeout(timer.current)
      setOpen(false)
      tell(text)
    }
    if (!found.length || !keys[event.key]) return
    event.preventDefault()
    event.stopPropagation()
    keys[event.key]()
  }
  return (
    <div class="filter">
      <input
        type="search"
        placeholder='Filter: shot, user:ann, state:ERROR, created>-2h'
        aria-label="Filter jobs"
        role="combobox"
        aria-expanded={found.length > 0}
        aria-controls="completions"
        aria-autocomplete="list"
        aria-activedescendant={at >= 0 && found.length ? `completion-${at}` : undefined}
        spellcheck={false}
        value={text}
        onInput={(event) => {
          setOpen(true)
          write(event.target.value, PAUSE_MS)
        }}
        onKeyDown={onKeyDown}
        onBlur={() => setOpen(false)}
      />
      <ul id="completions" role="listbox" aria-label="Completions" class="plain-list" hidden={!found.length}>
        {found.map((one, index) => (
          <li key={one} id={`completion-${index}`} role="option" aria-selected={index === at} onMouseDown={(event) => {
            event.preventDefault()
            write(one)
          }}>
            {one.slice(one.lastIndexOf(' ') + 1)}
          </li>
        ))}
      </ul>
      <Saved />
    </div>
  )
}
