# shellcheck shell=bash
# Strategies of neural ODEs: "model strategy" -> what asks NeuralODE/run_sweep.py for it. A strategy that is added here
# can be an OPT of sweep_node.sh and one of OPTS of run_node_optimizer_comparison.sh. Source this file.

declare -A NODE_FLAGS=(
    [node adam]="--optimizer Adam --physics-mode none"
    [node lbfgs]="--optimizer LBFGS --physics-mode none"
    [node sphere_adam]="--optimizer Adam --physics-mode sphere"
    [pinode adam]="--optimizer Adam --physics-mode pinn"
    [pinode lbfgs]="--optimizer LBFGS --physics-mode pinn"
    [pinode alm]="--optimizer LBFGS --physics-mode pinn_alm"
    [pinode alm_data]="--optimizer LBFGS --physics-mode pinn_alm --alm-target data"
    [pinode nncg]="--optimizer Adam_LBFGS_NNCG --physics-mode pinn"
    [pinode cl]="--optimizer LBFGS --physics-mode pinn --cl-warmup"
    [pinode region_lbfgs]="--optimizer LBFGS --physics-mode pinn_region"
)

# node_strategies MODEL: those of one model.
node_strategies() {
    local key
    for key in "${!NODE_FLAGS[@]}"; do
        [[ $key != "$1 "* ]] || echo "${key#* }"
    done | sort | xargs
}

# node_samples DT HORIZON...: the number of samples that names the folder of each horizon, T / dt rounded up.
node_samples() {
    printf '%s\n' "${@:2}" | awk -v dt="$1" '{ n = $1 / dt; print int(n) + (n - int(n) > 1e-9) }'
}

# fixed_dt WORD...: the sampling step that flags of NeuralODE/run_sweep.py ask for, else its default.
fixed_dt() {
    local dt=0.05
    while (($#)); do
        case $1 in
            --fixed[-_]dt=*) dt=${1#*=} ;;
            --fixed[-_]dt) dt=${2:-$dt} ;;
        esac
        shift
    done
    check_number "EXTRA: --fixed-dt" any "$dt"
    echo "$dt"
}
