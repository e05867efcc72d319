// Where the reader is, kept in the address: a link shows the same to a colleague, and Back works.
import { signal } from '@preact/signals'

export const VIEWS = {
  farm: 'Farm',
  jobs: 'Jobs',
  workers: 'Workers',
  cloud: 'Cloud',
  money: 'Money',
  activity: 'Activity',
  limits: 'Limits',
  settings: 'Settings',
}
const HIDDEN = ['log'] // reached from a job only

// Machines and money are everybody's, and so not for those who see own jobs only.
export const isFor = (server, view) => !['cloud', 'money'].includes(view) || !server?.rights || server.rights.includes('view_all')

// What leads to a list of jobs: nothing selected, nothing left of another list.
export const LIST = { job: 0, parent: 0, worker: 0, filter: '', sort: '' }

function read() {
  const query = new URLSearchParams(location.search)
  const number = (name) => Math.max(0, Number.parseInt(query.get(name), 10) || 0)
  const text = (name) => query.get(name) || ''
  const view = text('view')
  return {
    view: view in VIEWS || HIDDEN.includes(view) ? view : 'farm',
    job: number('job'), // the selected one
    worker: number('worker'),
    parent: number('parent'), // the group that is listed
    filter: text('filter'),
    sort: text('sort'),
    attempt: number('attempt'), // of the log
    at: query.has('at') ? number('at') + 1 : 0, // a byte of the log, plus 1
    by: text('by'),
    kind: text('kind'),
    user: text('user'),
    since: text('since'),
    from: text('from'), // an address, in the audit
    find: text('find'), // among the workers
    order: text('order'), // of the workers
    days: text('days'), // of the spend
    budget: text('budget'), // whose form is open
    ended: text('ended'), // instances too that are over
    instance: number('instance'), // whose console is open
  }
}

export const place = signal(read())

// The address of here with `changes`.
export function address(changes) {
  const query = new URLSearchParams()
  const all = { ...place.value, ...changes }
  if (all.view !== 'log') Object.assign(all, { attempt: 0, at: 0 })
  if (all.view !== 'activity') Object.assign(all, { kind: '', user: '', since: '', from: '' })
  if (all.view !== 'activity' && all.view !== 'money') all.by = ''
  if (all.view !== 'money') Object.assign(all, { days: '', budget: '' })
  if (all.view !== 'workers') Object.assign(all, { find: '', order: '' })
  if (all.view !== 'cloud') Object.assign(all, { ended: '', instance: 0 })
  for (const [name, value] of Object.entries(all)) {
    if (value && !(name === 'view' && value === 'farm')) query.set(name, name === 'at' ? value - 1 : value)
  }
  const text = query.toString()
  return text ? `/?${text}` : '/'
}

// How far the list of here is scrolled (null: it was not) is kept with its step of the history; `wayBack` is what Back or a reload found
// there, until the list has rows to scroll.
let top = null
export const wayBack = signal(history.state)

export function scrolled(pixels) {
  top = pixels
}

export function keepTop() {
  if (top !== null && !wayBack.value) history.replaceState({ top }, '')
}

const listOf = ({ view, parent, filter, sort }) => [view, parent, filter, sort].join('\n')

// Go there; `replace` leaves no step for Back (typing in a search field). The same list stays as far scrolled as it is.
export function go(changes, replace = false) {
  if (!replace) keepTop()
  const same = listOf({ ...place.value, ...changes }) === listOf(place.value)
  history[replace ? 'replaceState' : 'pushState'](same ? history.state : null, '', address(changes))
  place.value = read()
  if (!same) leave(null)
}

function leave(state) {
  top = null
  wayBack.value = state
}

window.addEventListener('popstate', (event) => {
  const before = listOf(place.value)
  place.value = read()
  if (listOf(place.value) !== before) leave(event.state)
})

// A link within the page. Modified clicks (a new tab) stay the browser's.
export function Link({ to, children, ...rest }) {
  const follow = (event) => {
    if (event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return
    event.preventDefault()
    go(to)
  }
  return (
    <a href={address(to)} onClick={follow} {...rest}>
      {children}
    </a>
  )
}
