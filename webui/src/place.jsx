// Where the reader is, kept in the address: a link shows the same to a colleague, and Back works.
import { signal } from '@preact/signals'

export const VIEWS = { farm: 'Farm', jobs: 'Jobs', workers: 'Workers', cloud: 'Cloud' }

function read() {
  const query = new URLSearchParams(location.search)
  const number = (name) => Math.max(0, Number.parseInt(query.get(name), 10) || 0)
  return {
    view: query.get('view') in VIEWS ? query.get('view') : 'farm',
    job: number('job'), // the selected one
    parent: number('parent'), // the group that is listed
    state: query.get('state') || '',
    title: query.get('title') || '',
  }
}

export const place = signal(read())

// The address of here with `changes`.
export function address(changes) {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries({ ...place.value, ...changes })) {
    if (value && !(name === 'view' && value === 'farm')) query.set(name, value)
  }
  const text = query.toString()
  return text ? `/?${text}` : '/'
}

// Go there; `replace` leaves no step for Back (typing in a search field).
export function go(changes, replace = false) {
  history[replace ? 'replaceState' : 'pushState'](null, '', address(changes))
  place.value = read()
}

window.addEventListener('popstate', () => {
  place.value = read()
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
