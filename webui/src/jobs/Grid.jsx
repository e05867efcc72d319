// The list of jobs: a tree of which only the rows in view are drawn, walked and selected with mouse or keyboard.
import { useEffect, useMemo, useRef } from 'preact/hooks'
import { count } from '../format.js'
import { Fault, Loading, Steady } from '../parts.jsx'
import { go, place } from '../place.jsx'
import { now, useLive } from '../poll.js'
import { density } from '../theme.js'
import { noText, useLetGo, useRecycled, useWindow } from '../window.js'
import { asExpected, paste } from './actions.js'
import { COLUMNS, fitting, layout, Resizer } from './columns.jsx'
import { active, all, clear, cut, extend, filterOf, flip, isSelected, only, selection } from './selection.js'
import { Tree } from './tree.js'



function Twist({ job, open, onFlip }) {
  if (!job.group) return <span class="twist" />
  const click = (event) => {
    event.stopPropagation()
    onFlip(job.id)
  }
  return (
    <button type="button" class={open ? 'twist open' : 'twist'} tabIndex={-1} onClick={click} aria-label={open ? 'Close the group' : 'Open the group'}>
      <svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
        <path d="M4 2.5 8 6 4 9.5" />
      </svg>
    </button>
  )
}

// The cells of a row; while its job is the same they need not be drawn again.
class Cells extends Steady {
  render({ job, depth, open, tree, shown, currency }) {
    const context = { currency, now: now.peek() }
    return shown.names.map((name) => {
      const [, , show, { number: numeric, title }] = COLUMNS[name]
      if (name === 'name') {
        return (
          <span key={name} role="gridcell" class="name" style={{ paddingInlineStart: `${depth * 1.25}rem` }}>
            <Twist job={job} open={open} onFlip={(id) => tree.toggle(id)} />
            <span class="title" title={job.title}>{job.title || `job ${job.id}`}</span>
          </span>
        )
      }
      return (
        <span key={name} role="gridcell" class={`${numeric ? 'number ' : ''}${name}`} title={title?.(job)}>
          {show(job, context)}
        </span>
      )
    })
  }
}

function Row({ number, top, row, tree, shown, currency }) {
  const box = useRef(null)
  const { depth } = row
  const job = asExpected(row.job)
  const open = tree.opened.has(job.id)
  const selected = isSelected(job.id)
  useLetGo(box, job.id)
  const click = (event) => {
    if (event.ctrlKey || event.metaKey) return flip(job.id)
    if (event.shiftKey) return extend(job.id, tree)
    only(job.id)
    return go({ job: job.id })
  }
  const kinds = ['row', selected && 'selected', place.value.job === job.id && 'opened', active.value === job.id && 'active', cut.value.some((one) => one.id === job.id) && 'cut']
  return (
    <div
      ref={box}
      id={`job-${job.id}`}
      class={kinds.filter(Boolean).join(' ')}
      style={{ top }}
      role="row"
      data-job={job.id}
      aria-rowindex={number + 2}
      aria-level={depth + 1}
      aria-expanded={job.group ? open : undefined}
      aria-selected={selected}
      onClick={click}
      onDblClick={() => job.group && go({ view: 'jobs', parent: job.id, job: 0, filter: '' })}
    >
      <Cells {...{ job, depth, open, tree, shown, currency }} />
    </div>
  )
}

const Coming = ({ number, top }) => (
  <div class="row waits" style={{ top }} role="row" aria-rowindex={number + 2}>
    <span role="gridcell">…</span>
  </div>
)

function Head({ shown, sort, sortable }) {
  const flipSort = (by) => {
    const [first, then] = by === 'title' ? [by, `-${by}`] : [`-${by}`, by]
    go({ sort: sort === first ? then : first }, true)
  }
  return (
    <div class="row head" role="row" aria-rowindex={1}>
      {shown.names.map((name) => {
        const [word, , , { number, sort: by }] = COLUMNS[name]
        const order = sort.replace('-', '') === by && (sort.startsWith('-') ? 'descending' : 'ascending')
        return (
          <span key={name} role="columnheader" class={`${number ? 'number ' : ''}${name}`} aria-sort={by && sort ? order || 'none' : undefined}>
            {by && sortable?.(by) ? (
              <button type="button" class="plain sorter" onClick={() => flipSort(by)}>
                {word}
                {by && order && <span aria-hidden="true">{order === 'ascending' ? ' ↑' : ' ↓'}</span>}
              </button>
            ) : (
              word
            )}
            {name !== 'name' && sortable && <Resizer name={name} />}
          </span>
        )
      })}
    </div>
  )
}

// Arrows walk, Shift extends, Space selects, Enter opens, Ctrl+A takes all that match, Ctrl+X and Ctrl+V move, Escape lets go.
// `walk` holds where the keyboard is, and where it goes as soon as that row is loaded.
function keysOf({ tree, reveal, page, walk }) {
  const here = () => {
    const number = active.value ? tree.numberOf(active.value) : 0
    return number >= 0 ? number : walk.at
  }
  const to = (number, event) => {
    const at = Math.min(tree.length - 1, Math.max(0, number))
    const job = tree.row(at)?.job
    walk.at = at
    walk.on = job ? null : () => to(at, event)
    reveal(at)
    if (!job) return
    if (event.shiftKey) extend(job.id, tree)
    else if (event.ctrlKey) active.value = job.id
    else only(job.id)
  }
  const parentOf = (row) => {
    let at = here()
    while (at > 0 && tree.row(at).depth >= row.depth) at -= 1
    return at
  }
  return {
    ArrowDown: (event) => to(active.value ? here() + 1 : 0, event),
    ArrowUp: (event) => to(here() - 1, event),
    PageDown: (event) => to(here() + page(), event),
    PageUp: (event) => to(here() - page(), event),
    Home: (event) => to(0, event),
    End: (event) => to(tree.length - 1, event),
    ArrowRight: (event, { job }) => (job.group && !tree.opened.has(job.id) ? tree.toggle(job.id, true) : to(here() + 1, event)),
    ArrowLeft: (event, row) => (tree.opened.has(row.job.id) ? tree.toggle(row.job.id, false) : row.depth && to(parentOf(row), event)),
    Enter: (event, { job }) => go({ job: job.id }),
    ' ': (event, { job }) => flip(job.id),
    Escape: () => clear(),
    'Ctrl+a': () => all(filterOf(place.value)),
    'Ctrl+x': () => (cut.value = [...tree.rows()].filter((job) => selection.value.ids.has(job.id))),
    'Ctrl+v': (event, { job }) => cut.value.length && paste(job.group ? job.id : job.parent),
  }
}

export function useTree(query) {
  const key = JSON.stringify(query)
  const tree = useMemo(() => new Tree(query), [key])
  useLive(`tree:${key}`, tree.refresh, 2)
  return tree
}

// `sortable`: by what; not given, the list is as it is.
export function Grid({ tree, currency, none, sortable }) {
  const height = density.value === 'roomy' ? 38 : 30
  tree.version.value // drawn again when it changes
  const { box, first, last, width, rests, onScroll, reveal, page } = useWindow(tree.length, height)
  const shown = useMemo(() => fitting(width), [width, layout.value])
  const walk = useRef({ at: 0, on: null }).current
  const keys = keysOf({ tree, reveal, page, walk })
  useEffect(() => {
    if (walk.on && (walk.at >= tree.length || tree.row(walk.at)?.job)) walk.on() // the end may come sooner than was told
  })
  const wanted = useRef('')
  useEffect(() => {
    if (wanted.current === `${first} ${last}`) return
    wanted.current = `${first} ${last}`
    tree.show(first, last)
  })
  useEffect(() => () => clear(), [tree])
  const onKeyDown = (event) => {
    if (event.target !== box.current) return
    const key = event.ctrlKey || event.metaKey ? `Ctrl+${event.key}` : event.key
    const act = keys[key] || (key.startsWith('Ctrl+Arrow') && keys[event.key])
    const row = tree.row(Math.max(0, tree.numberOf(active.value)))
    if (!act || (!row?.job && key !== 'Escape')) return
    walk.on = null
    event.preventDefault()
    act(event, row)
  }
  const numbered = []
  const ids = new Set() // a job that moved may stand in two pages until both are loaded again
  for (let number = first; number <= last; number += 1) {
    const row = tree.row(number)
    const job = ids.has(row?.job?.id) ? undefined : row?.job
    if (row) numbered.push({ id: job?.id ?? `at ${number}`, number, row: { ...row, job } })
    ids.add(job?.id)
  }
  const rows = useRecycled(numbered, rests)
  const visible = rows.some(({ id }) => id === active.value)
  const empty = tree.loaded && !tree.length
  return (
    <div
      ref={box}
      class={shown.narrow ? 'jobs-grid narrow' : 'jobs-grid'}
      role="treegrid"
      tabIndex={0}
      aria-label="Jobs"
      aria-multiselectable="true"
      aria-rowcount={tree.length + 1}
      aria-activedescendant={visible ? `job-${active.value}` : undefined}
      style={{ '--cols': shown.template }}
      onScroll={onScroll}
      onMouseDown={noText}
      onKeyDown={onKeyDown}
    >
      <Head shown={shown} sort={place.value.sort && tree.root.query.sort} sortable={sortable} />
      <div role="rowgroup" style={{ height: `${tree.length * height}px` }}>
        {rows.map(({ key, number, row }) => {
          const top = `${number * height}px`
          return row.job ? <Row key={key} {...{ number, top, row, tree, shown, currency }} /> : <Coming key={key} {...{ number, top }} />
        })}
      </div>
      {(tree.error || !tree.loaded || empty) && (
        <div role="row" class="row words"><div role="gridcell">
          <Fault error={tree.error} />
          {!tree.loaded && !tree.error && <Loading />}
          {empty && !tree.error && none}
        </div></div>
      )}
    </div>
  )
}

export const rowsWord = (level) => `${count(level.more ? Math.max(level.total, level.known) : level.length)}${level.more ? '+' : ''}`
