// Which rows of a long list are in view: all are of one height, so a division tells.
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks'

const STEP = 8 // rows; within these a scroll draws nothing
const REST_MS = 150 // after which a list that was scrolled rests

export function useWindow(count, height) {
  const box = useRef(null)
  const [seen, setSeen] = useState({ first: 0, rows: 40, width: 1200 })
  const look = () => {
    if (!box.current) return
    const { scrollTop, clientHeight, clientWidth } = box.current
    const first = Math.floor(scrollTop / height / STEP) * STEP
    const rows = Math.ceil(clientHeight / height / STEP) * STEP
    setSeen((old) => (old.first === first && old.rows === rows && old.width === clientWidth ? old : { first, rows, width: clientWidth }))
  }
  useLayoutEffect(() => {
    const watch = new ResizeObserver(look)
    watch.observe(box.current)
    look()
    return () => watch.disconnect()
  }, [])
  useLayoutEffect(look, [count])
  const reveal = (number) => {
    const { scrollTop, clientHeight } = box.current
    const head = 28
    if (number * height < scrollTop) box.current.scrollTop = number * height
    else if ((number + 1) * height + head > scrollTop + clientHeight) box.current.scrollTop = (number + 1) * height + head - clientHeight
  }
  return { box, first: Math.max(0, seen.first - STEP), last: Math.min(count, seen.first + seen.rows + 2 * STEP) - 1, width: seen.width, look, reveal }
}

// Rows that come into view take the elements of those that left, and no element moves in the document while the list is scrolled: what
// is made or moved is styled and laid out anew, which is what a scroll costs. At rest they stand in order, for who goes by Tab or has the
// page read out. rows: [{ id, number }] -> the same, each with the key of its elements.
export function useRecycled(rows) {
  const held = useRef(new Map())
  const made = useRef(0)
  const shown = new Set(rows.map(({ id }) => id))
  const free = [...held.current].filter(([id]) => !shown.has(id)).map(([, key]) => key)
  held.current = new Map(rows.map(({ id }) => [id, held.current.get(id) ?? free.pop() ?? (made.current += 1)]))
  const keyed = rows.map((row) => ({ ...row, key: held.current.get(row.id) }))
  return useRest(rows[0]?.number) ? keyed : keyed.sort((a, b) => a.key - b.key)
}

// Whether the list has not moved for a while. What has the focus keeps it when its row is put in order; what is written in stays where it is.
function useRest(first) {
  const [rested, rest] = useState(first)
  const focused = useRef(null)
  useEffect(() => {
    const timer = setTimeout(() => {
      focused.current = document.activeElement
      if (focused.current.tagName !== 'INPUT') rest(first)
    }, REST_MS)
    return () => clearTimeout(timer)
  }, [first])
  useLayoutEffect(() => {
    if (document.activeElement === document.body) focused.current?.focus({ preventScroll: true })
  }, [rested])
  return rested === first
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
