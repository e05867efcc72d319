// The jobs: where one is among them, the list, what is done to the selected, and what it comes to.
import { effect, signal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import * as api from '../api.js'
import { count, duration, money, plural } from '../format.js'
import { Add } from '../jobs/Add.jsx'
import { BULK, elsewhere, mayRunElsewhere, paste, raise } from '../jobs/actions.js'
import { ColumnsMenu } from '../jobs/columns.jsx'
import { saveJobs } from '../jobs/csv.js'
import { Editor } from '../jobs/Editor.jsx'
import { Filter } from '../jobs/Filter.jsx'
import { Grid, rowsWord, useTree } from '../jobs/Grid.jsx'
import { all, chosen, clear, cut, filterOf, selection } from '../jobs/selection.js'
import { Actions, Empty, Section } from '../parts.jsx'
import { Link, place } from '../place.jsx'
import { locked, useLive } from '../poll.js'

export const panel = signal('') // '', 'add' or 'edit'

const STEP = 10 // of priority
const seenUsers = new Set() // whose jobs were listed, to who is signed in
effect(() => locked.value && seenUsers.clear())

// A filter looks everywhere below a group, or in the whole farm, which nothing sorts by title.
export const sortsBy = ({ parent, filter }, by) => by !== 'title' || parent > 0 || !filter

export function queryOf({ parent, filter, sort }) {
  const within = parent || !filter ? { parent } : {}
  const usual = parent && !filter ? 'id' : '-id'
  return { ...within, filter, sort: sort && sortsBy({ parent, filter }, sort.replace('-', '')) ? sort : usual }
}

function Crumbs({ id }) {
  const { data } = useLive(`job:${id}`, () => api.job(id), 10)
  return (
    <>
      {data?.parent > 0 && <Crumbs id={data.parent} />}
      <span class="slash">/</span>
      <Link to={{ parent: id }}>{data?.title || `#${id}`}</Link>
    </>
  )
}

function Where() {
  const { parent, filter } = place.value
  if (!parent && !filter) return null
  return (
    <p class="crumbs">
      <Link to={{ parent: 0, filter: '' }}>All jobs</Link>
      {parent > 0 && <Crumbs id={parent} />}
      {filter && (
        <>
          <span class="slash">/</span>
          {filter}
        </>
      )}
    </p>
  )
}

function Chosen({ tree }) {
  const { ids, filter } = selection.value
  const jobs = [...tree.rows()].filter((job) => ids.has(job.id))
  const allowed = new Set(jobs.flatMap((job) => job.allowed_actions))
  const which = chosen()
  const may = (name) => Boolean(filter) || allowed.has(name.replace('-errors', ''))
  const actions = BULK.filter(({ name }) => may(name) && (name !== 'reset-errors' || filter || jobs.some((job) => job.counts?.error || job.state === 'ERROR')))
  const movable = jobs.filter(mayRunElsewhere)
  const more = [
    movable.length > 0 && elsewhere(movable),
    { name: 'edit', label: 'Edit', run: () => (panel.value = 'edit') },
    !filter && { name: 'up', label: 'Priority ↑', run: () => raise(jobs, STEP) },
    !filter && { name: 'down', label: 'Priority ↓', run: () => raise(jobs, -STEP) },
    !filter && { name: 'cut', label: 'Cut', run: () => (cut.value = jobs) },
  ].filter(Boolean)
  return (
    <div class="chosen">
      <span class="what" role="status">
        {filter ? 'all that match' : plural(ids.size, 'job')} selected
      </span>
      <Actions actions={[...actions, ...(may('edit') ? more : [])]} which={which} label="Actions for the selected jobs" />
      <span class="more">
        {!filter && (
          <button type="button" class="plain" onClick={() => all(filterOf(place.value))}>
            All that match
          </button>
        )}
        <button type="button" class="plain" onClick={clear}>
          Clear
        </button>
      </span>
    </div>
  )
}

// The place of the actions is kept, so that no row moves under the pointer when one is selected.
const Unchosen = () => (
  <p class="of">
    Nothing selected<span class="by-mouse">: click, with Ctrl or Shift for more</span>.{' '}
    <button type="button" class="plain" onClick={() => all(filterOf(place.value))}>
      Select all that match
    </button>
  </p>
)

function Cut({ tree }) {
  const { parent } = place.value
  const held = new Set(cut.value.map((job) => job.id))
  const groups = [...tree.rows()].filter((job) => job.group && selection.value.ids.has(job.id) && !held.has(job.id))
  return (
    <div class="chosen">
      <span class="what">{plural(cut.value.length, 'job')} cut</span>
      <Actions
        label="Where the cut jobs go"
        actions={[
          { name: 'paste', label: parent ? 'Paste into this group' : 'Paste at the top', run: () => paste(parent) },
          ...groups.slice(0, 1).map(({ id }) => ({ name: 'paste-into', label: `Paste into #${id}`, run: () => paste(id) })),
          { name: 'keep', label: 'Leave them', run: () => (cut.value = []) },
        ]}
      />
    </div>
  )
}

// Sums of what is selected, else of what is loaded; a group's are those of what is in it.
function Footer({ tree, filter, currency }) {
  const { ids } = selection.value
  const all = new Map([...tree.rows()].map((job) => [job.id, job]))
  const rows = [...all.values()].filter((job) => !ids.size || ids.has(job.id))
  const there = new Set(rows.map((job) => job.id))
  const isIn = (id) => there.has(id) || (all.has(id) && isIn(all.get(id).parent))
  const jobs = rows.filter((job) => !isIn(job.parent))
  const ended = rows.filter((job) => job.ended_at && !job.group)
  const sum = (name) => jobs.reduce((total, job) => total + (job[name] || 0), 0)
  const { root } = tree
  return (
    <p class="footer">
      <span>{ids.size ? `${count(rows.length)} selected` : `${rowsWord(root)} ${root.length === 1 ? 'row' : 'rows'}`}</span>
      {!ids.size && !filter && root.counts && (
        <span>
          {count(root.counts.total)} jobs: {count(root.counts.waiting + root.counts.pending)} to do, {count(root.counts.working)} working, {count(root.counts.finished)} done,{' '}
          {count(root.counts.error)} with errors
        </span>
      )}
      <span>run time {duration(sum('run_s'))}</span>
      {ended.length > 0 && <span>average {duration(ended.reduce((total, job) => total + job.run_s, 0) / ended.length)}</span>}
      <span>cost {money(sum('cost_micro'), currency)}</span>
      {!ids.size && root.length > root.loaded && <span class="of">sums of the {count(root.loaded)} rows loaded</span>}
    </p>
  )
}

export function SidePanel({ farm }) {
  const close = () => {
    panel.value = ''
  }
  if (panel.value === 'edit') return <Editor which={chosen()} onClose={close} />
  if (panel.value === 'add') return <Add onClose={close} farm={farm} />
  return null
}

export function Jobs({ farm, home = false }) {
  const query = queryOf(home ? { parent: 0, filter: '', sort: '' } : place.value)
  const tree = useTree(query)
  for (const { user } of tree.rows()) if (user) seenUsers.add(user)
  const { ids, filter } = selection.value
  useEffect(() => () => clear(), [])
  const none = query.filter ? (
    <Empty>No job matches.</Empty>
  ) : (
    <Empty>
      No jobs yet. Submit one: <code>coalition submit --title hello -- echo hello</code>
    </Empty>
  )
  const tools = (
    <>
      <Actions label="The list" actions={[{ name: 'csv', label: 'CSV', run: () => saveJobs(query) }]} />
      <ColumnsMenu />
      <button type="button" class="main" onClick={() => (panel.value = 'add')}>
        New job
      </button>
    </>
  )
  return (
    <Section name="jobs" title={home ? 'Newest jobs' : 'Jobs'} lead={!home && <Filter users={[...seenUsers].sort()} />} aside={home ? <Link to={{ view: 'jobs' }}>All jobs</Link> : tools}>
      {!home && <Where />}
      {!home && <div class="selection">{ids.size > 0 || filter ? <Chosen tree={tree} /> : <Unchosen />}</div>}
      {cut.value.length > 0 && !home && <Cut tree={tree} />}
      <Grid tree={tree} currency={farm?.currency} none={none} sortable={home ? null : (by) => sortsBy(place.value, by)} />
      {!home && tree.loaded && <Footer tree={tree} filter={query.filter} currency={farm?.currency} />}
    </Section>
  )
}
