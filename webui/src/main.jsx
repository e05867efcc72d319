// The page's frame: header, the views that the address asks for, and the detail of the selected job.
import { effect } from '@preact/signals'
import { render } from 'preact'
import * as api from './api.js'
import { count, plural } from './format.js'
import { place } from './place.jsx'
import { locked, setClock, startPolling, useLive } from './poll.js'
import './theme.js'
import './style/base.css'
import './style/frame.css'
import './style/grid.css'
import './style/detail.css'
import { Decisions } from './views/Decisions.jsx'
import { Header, Vitals } from './views/Header.jsx'
import { Instances } from './views/Instances.jsx'
import { Job } from './views/Job.jsx'
import { Jobs } from './views/Jobs.jsx'
import { Login } from './views/Login.jsx'
import { Money } from './views/Money.jsx'
import { Workers } from './views/Workers.jsx'

const loadFarm = async () => {
  const farm = await api.farm()
  setClock(farm.now)
  return farm
}

function View({ name, farm }) {
  const wide = { jobs: <Jobs farm={farm} />, workers: <Workers /> }[name]
  if (wide) return <div class="column main">{wide}</div>
  const cloud = (
    <>
      <Money farm={farm} />
      <Instances />
    </>
  )
  if (name === 'cloud') {
    return (
      <>
        <div class="column main">{cloud}</div>
        <div class="column side">
          <Decisions farm={farm} limit={100} />
        </div>
      </>
    )
  }
  return (
    <>
      <div class="column main">
        <Jobs farm={farm} size={15} />
        <Workers />
      </div>
      <div class="column side">
        {cloud}
        <Decisions farm={farm} limit={12} />
      </div>
    </>
  )
}

function tabTitle(server, farm) {
  const name = server ? `${server.farm} – Coalition` : 'Coalition'
  if (!farm) return name
  const errors = farm.jobs.error ? `${plural(farm.jobs.error, 'error')}, ` : ''
  return farm.jobs.working || errors ? `${errors}${count(farm.jobs.working)} working – ${name}` : name
}

function Page() {
  const server = useLive('info', api.info, 60).data
  const farm = useLive('farm', loadFarm).data
  const { view, job } = place.value
  document.title = tabTitle(server, farm)
  if (locked.value) return <Login />
  if (!server) return <Header />
  return (
    <>
      <div class="masthead">
        <Header server={server} />
        <Vitals farm={farm} />
      </div>
      <main class={job ? `${view} with-detail` : view}>
        <View name={view} farm={farm} />
        {job > 0 && <Job key={job} id={job} farm={farm} />}
      </main>
    </>
  )
}

render(<Page />, document.getElementById('app'))
startPolling()

// A job that is opened from far down the page should be seen; on a narrow screen it covers the page.
effect(() => {
  document.body.classList.toggle('detail-open', place.value.job > 0)
})
