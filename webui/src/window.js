// Which rows of a long list are in view: all are of one height, so that a division tells.
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import { keepTop, scrolled, wayBack } from './place.jsx'

const STEP = 8 // rows; within these a scroll draws nothing
const HEAD = 28 // pixels, of the line of names that stays
const REST_MS = 150 // after the last scroll a list rests

export function useWindow(count, height) {
  const box = useRef(null)
  const [seen, setSeen] = useState({ first: 0, rows: 40, width: 1200, rests: true })
  const look = (moves) => {
    if (!box.current) return
    const { scrollTop, clientHeight, clientWidth: width } = box.current
    const first = Math.floor(scrollTop / height / STEP) * STEP
    const rows = Math.ceil(clientHeight / height / STEP) * STEP
    setSeen((old) => (old.first === first && old.rows === rows && old.width === width ? old : { first, rows, width, rests: old.rests && !moves }))
  }
  const rest = useRest(box, () => {
    setSeen((old) => (old.rests ? old : { ...old, rests: true }))
    keepTop()
  })
  const onScroll = () => {
    scrolled(box.current.scrollTop)
    look(true)
    rest()
  }
  useLayoutEffect(() => {
    const watch = new ResizeObserver(() => look(false))
    watch.observe(box.current)
    look(false)
    return () => watch.disconnect()
  }, [])
  useLayoutEffect(() => look(false), [count])
  useWayBack(box, count)
  useKeptFocus()
  const reveal = (number) => {
    const { scrollTop, clientHeight } = box.current
    if (number * height < scrollTop) box.current.scrollTop = number * height
    else if ((number + 1) * height + HEAD > scrollTop + clientHeight) box.current.scrollTop = (number + 1) * height + HEAD - clientHeight
  }
  const { width, rests } = seen
  const page = () => Math.max(1, Math.floor((box.current.clientHeight - HEAD) / height) - 1)
  return { page, box, first: Math.max(0, seen.first - STEP), last: Math.min(count, seen.first + seen.rows + 2 * STEP) - 1, width, rests, onScroll, reveal }
}

// Calls `settle` some time after it was called last, and not while something in the list is written in: its row stays where it is.
function useRest(box, settle) {
  const timer = useRef(0)
  const rest = () => {
    clearTimeout(timer.current)
    timer.current = setTimeout(() => {
      const { activeElement } = document
      if (activeElement.tagName === 'INPUT' && box.current.contains(activeElement)) rest()
      else settle()
    }, REST_MS)
  }
  useLayoutEffect(() => () => clearTimeout(timer.current), [])
  return rest
}

// Back and a reload lead to where the list was.
function useWayBack(box, count) {
  const back = wayBack.value
  useLayoutEffect(() => {
    if (!back || !count) return
    box.current.scrollTop = back.top
    wayBack.value = null
  }, [back, count > 0])
}

// What has the focus keeps it when its row is moved in the document, where the browser has no moveBefore.
function useKeptFocus() {
  const focused = document.activeElement
  useLayoutEffect(() => {
    if (document.activeElement === document.body) focused?.focus({ preventScroll: true })
  })
}

// Rows that come into view take the elements of those that left, and no element moves in the document while the list is scrolled: what
// is made or moved is styled and laid out anew, which is what a scroll costs. At rest they stand in order, for who goes by Tab or has the
// page read out. rows: [{ id, number }] -> the same, each with the key of its elements.
export function useRecycled(rows, rests) {
  const held = useRef(new Map())
  const made = useRef(0)
  const places = useRef(new Map()) // in the document, by key
  const shown = new Set(rows.map(({ id }) => id))
  const free = [...held.current].filter(([id]) => !shown.has(id)).map(([, key]) => key)
  held.current = new Map(rows.map(({ id }) => [id, held.current.get(id) ?? free.pop() ?? (made.current += 1)]))
  const keyed = rows.map((row) => ({ ...row, key: held.current.get(row.id) }))
  const stands = ({ key }) => places.current.get(key) ?? places.current.size
  if (!rests) keyed.sort((a, b) => stands(a) - stands(b))
  places.current = new Map(keyed.map(({ key }, at) => [key, at]))
  return keyed
}

// A click with Shift selects rows, not their text.
export function noText(event) {
  if (!event.shiftKey || event.target.tagName === 'INPUT') return
  event.preventDefault()
  event.currentTarget.focus({ preventScroll: true })
}

// What has the focus in a row does not keep it for another one that takes its elements: the list has it then.
export function useLetGo(row, id) {
  const shown = useRef(id)
  const letGo = () => {
    if (row.current?.contains(document.activeElement)) row.current.closest('[tabindex="0"]').focus({ preventScroll: true })
  }
  if (shown.current !== id) letGo() // before its elements change
  shown.current = id
  useLayoutEffect(() => letGo, [])
}
