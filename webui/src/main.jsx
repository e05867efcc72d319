// The page's frame: header, the views that the address asks for, and the detail of the selected job.
import { effect } from '@preact/signals'
import { render } from 'preact'
import * as api from './api.js'
import { count, plural } from './format.js'
import { Fault } from './parts.jsx'
import { isFor, place } from './place.jsx'
import { locked, setClock, startPolling, useLive } from './poll.js'
import './theme.js'
import './style/base.css'
import './style/parts.css'
import './style/frame.css'
import './style/grid.css'
import './style/detail.css'
import './style/jobs.css'
import './style/views.css'
import './style/workers.css'
import './style/tables.css'
import './style/log.css'
import './style/charts.css'
import { Toast } from './toast.jsx'
import { Activity } from './views/Activity.jsx'
import { Cloud } from './views/Cloud.jsx'
import { Farm } from './views/Farm.jsx'
import { Header, Vitals } from './views/Header.jsx'
import { Job } from './views/Job.jsx'
import { Jobs, panel, SidePanel } from './views/Jobs.jsx'
import { Limits } from './views/Limits.jsx'
import { Login } from './views/Login.jsx'
import { LogView } from './views/LogView.jsx'
import { Money } from './views/Money.jsx'
import { Settings } from './views/Settings.jsx'
import { Worker } from './views/Worker.jsx'
import { Workers } from './views/Workers.jsx'

const VIEWS = { farm: Farm, jobs: Jobs, workers: Workers, cloud: Cloud, money: Money, activity: Activity, limits: Limits, settings: Settings, log: LogView }

const ANYBODYS = ['jobs', 'workers', 'log'] // long lists, which need not wait for who looks at them

const loadFarm = async () => {
  const farm = await api.farm()
  setClock(farm.now)
  return farm
}

function tabTitle(server, farm) {
  const name = server ? `${server.farm} – Coalition` : 'Coalition'
  if (!farm) return name
  const errors = farm.jobs.error ? `${plural(farm.jobs.error, 'error')}, ` : ''
  return farm.jobs.working || errors ? `${errors}${count(farm.jobs.working)} working – ${name}` : name
}

// What is open beside the view: the editor, a worker, or a job.
function Detail({ farm }) {
  const { view, job, worker } = place.value
  if (view === 'log') return null
  if (panel.value) return <SidePanel farm={farm} />
  if (worker) return <Worker key={worker} id={worker} />
  return job > 0 && <Job key={job} id={job} farm={farm} />
}

const NoRight = () => <Fault error={{ status: 403 }} />

const hasDetail = () => place.value.view !== 'log' && Boolean(panel.value || place.value.worker || place.value.job)

// The first thing in the view that takes the focus; the address stays.
function skip(event) {
  event.preventDefault()
  document.querySelector('main :is(a, button, input, select, summary, [tabindex="0"])')?.focus()
}

function Page() {
  const server = useLive('info', api.info, 60).data
  const farm = useLive('farm', loadFarm).data
  const { view } = place.value
  document.title = tabTitle(server, farm)
  if (locked.value) return <Login />
  if (!server && !ANYBODYS.includes(view)) return <Header />
  const View = isFor(server, view) ? VIEWS[view] : NoRight
  return (
    <>
      <a class="skip" href="#view" onClick={skip}>Skip to the view</a>
      <div class="masthead">
        <Header server={server} />
        <Vitals farm={farm} />
      </div>
      <main id="view" class={hasDetail() ? `${view} with-detail` : view}>
        <div class="column main" key={view}>
          <View farm={farm} server={server} />
        </div>
        <Detail farm={farm} />
      </main>
      <Toast />
    </>
  )
}

render(<Page />, document.getElementById('app'))
startPolling()

// On a narrow screen what is opened covers the page.
effect(() => {
  document.body.classList.toggle('detail-open', hasDetail())
})
