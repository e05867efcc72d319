// Cloud: the pools with what stops them, the machines with their price and why they run, what was decided, and prices.
import { Pools } from '../cloud/Pools.jsx'
import { Prices } from '../cloud/Prices.jsx'
import { Decisions } from './Decisions.jsx'
import { Instances } from './Instances.jsx'

export function Cloud({ farm, server }) {
  return (
    <div class="split">
      <div>
        <Pools farm={farm} server={server} />
        <Instances withEnded />
        <Prices />
      </div>
      <div>
        <Decisions farm={farm} />
      </div>
    </div>
  )
}
